//! The node's own API: HTTPS on 10250, as kubelet's, plain health on 127.0.0.1:10248, and the read-only port where it is
//! asked for. Shell; who may do what and what a log comes to is decided in `oomlet_core::node_api`.
//!
//! | module | what |
//! |---|---|
//! | [`server`] | the ports, the threads, what is refused before it is read |
//! | [`connection`], [`metered`] | one connection: TLS, its time and its memory while nobody has shown who they are |
//! | [`tls`], [`client_ca`] | which TLS is spoken; whose client certificates count |
//! | [`access`], [`authn`], [`authz`] | 401 and 403 before any route |
//! | [`counted`] | how many requests there are, and how long they take |
//! | [`routes`] | a file for each family of paths; [`state`] is all that they have |
//! | [`proxy`] | streams to the runtime, byte for byte |
//! | [`journal`] | what the node's services have said; containers' logs come from [`crate::container_log`] |
//!
//! It has a tokio runtime of its own, whose threads are less urgent than the agent's others: nothing that a caller does
//! keeps the SyncLoop from its turn. Nobody waits for it.

pub mod access;
pub mod answer;
pub mod authn;
pub mod authz;
pub mod client_ca;
pub mod connection;
pub mod counted;
pub mod find;
pub mod journal;
pub mod metered;
pub mod proxy;
pub mod routes;
pub mod server;
pub mod state;
pub mod tls;

pub use server::{ListenError, NodeApiServer, Sockets};
pub use state::NodeApi;
