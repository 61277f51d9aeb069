//! Containers' logs, from the directory that a pod's worker makes for them to the end of their time. Shell; which files go,
//! which are compressed and what they are called is decided in [`oomlet_core::container_log`].
//!
//! | module | what |
//! |---|---|
//! | [`dir`] | a pod's directory and its containers' in it: made, listed, locked, removed |
//! | [`rotation`] | the task that rotates logs that have grown too large |
//! | [`keeper`] | the task that removes the logs of pods that are gone, after a while |
//! | [`links`] | links in one flat folder, where log shippers look |
//! | [`reader`], [`source`], [`dir_watch`] | a log to whoever asks for it, over rotations |

pub mod dir;
pub mod dir_watch;
pub mod keeper;
pub(crate) mod links;
pub mod reader;
pub mod rotation;
mod source;
