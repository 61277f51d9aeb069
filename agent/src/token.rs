//! Where tokens of ServiceAccounts come from. Shell; what is asked for, and when again, is [`oomlet_core::token`]'s.
//!
//! - [`api`]: the API server.

pub mod api;

use std::fmt::Debug;
use std::time::Duration;

use crate::object::BoxFuture;
use oomlet_core::pod::PodUid;
use oomlet_core::token::{Token, TokenKey};

/// A token, or why there is none, and when to ask again.
#[derive(Clone, Debug)]
pub struct Answer {
    pub token: Result<Token, String>,
    /// After this time it is due for another, or another attempt may succeed.
    pub again_in: Duration,
}

pub trait TokenSource: Debug + Send + Sync {
    /// One that is valid and not due for another, if that can be had.
    fn token<'a>(&'a self, key: &'a TokenKey) -> BoxFuture<'a, Answer>;

    /// The pod has gone: its tokens are void.
    fn forget_pod(&self, uid: &PodUid);
}

/// Standalone nobody issues any.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTokens;

impl TokenSource for NoTokens {
    fn token<'a>(&'a self, key: &'a TokenKey) -> BoxFuture<'a, Answer> {
        let token = Err(format!(
            "a token of ServiceAccount {:?} needs an API server, and this node is in standalone mode; remove the \
             `serviceAccountToken` from the volume",
            key.service_account
        ));
        Box::pin(async { Answer { token, again_in: Duration::MAX } })
    }

    fn forget_pod(&self, _: &PodUid) {}
}
