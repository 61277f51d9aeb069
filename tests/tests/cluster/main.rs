//! A node of a real cluster: etcd, API server, controller-manager and scheduler as people run them, `kubectl`, and the
//! agent on real containerd.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod pods;
