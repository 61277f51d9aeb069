//! What the node's own API decides: who may do what, which container's log is meant, what a line of it comes to. Core; the
//! listener and all I/O are in `oomlet::node_api`.

pub mod access_cache;
pub mod attributes;
pub mod bucket;
pub mod health;
pub mod log_line;
pub mod log_options;
pub mod log_query;
pub mod log_source;
pub mod paths;
pub mod pods;
pub mod stream_options;
pub mod url_values;
