//! Where ConfigMaps and Secrets come from. Shell; what is in them is [`oomlet_core::object`]'s.
//!
//! - [`directory`]: a directory of manifests, standalone (`oomlet.objects`).
//! - [`api`]: the API server.
//!
//! A source gives what it has of an object and tells when that has become another; it may keep to what the registered pods
//! name.

pub mod api;
pub mod directory;

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::broadcast;

use oomlet_core::object::{Object, ObjectError, ObjectRef, Objects};
use oomlet_core::pod::{Pod, PodUid};

/// Changes that are not taken in fast enough are lost, and the receiver is told so.
const CHANGES: usize = 256;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub trait ObjectSource: Debug + Send + Sync {
    /// The pod's objects are needed from now on. For each UID once more is fine.
    fn register_pod(&self, pod: &Pod);

    /// They are not, unless by another pod.
    fn unregister_pod(&self, uid: &PodUid);

    /// As it is known now, or as soon as it is.
    fn get<'a>(&'a self, object: &'a ObjectRef) -> BoxFuture<'a, Result<Arc<Object>, ObjectError>>;

    /// Objects that have appeared, changed or gone.
    fn changes(&self) -> broadcast::Receiver<ObjectRef>;
}

/// All of them, those that are not there too.
pub async fn look_up(source: &dyn ObjectSource, wanted: impl IntoIterator<Item = ObjectRef>) -> Objects {
    let mut found = Vec::new();
    for object in wanted {
        let content = source.get(&object).await;
        found.push((object, content));
    }
    found.into_iter().collect()
}

/// Standalone without a directory: there are none.
#[derive(Debug)]
pub struct NoObjects {
    changes: broadcast::Sender<ObjectRef>,
}

impl Default for NoObjects {
    fn default() -> Self {
        NoObjects { changes: broadcast::Sender::new(1) }
    }
}

impl ObjectSource for NoObjects {
    fn register_pod(&self, _: &Pod) {}

    fn unregister_pod(&self, _: &PodUid) {}

    fn get<'a>(&'a self, object: &'a ObjectRef) -> BoxFuture<'a, Result<Arc<Object>, ObjectError>> {
        Box::pin(async { Err(ObjectError::NoSource(object.clone())) })
    }

    fn changes(&self) -> broadcast::Receiver<ObjectRef> {
        self.changes.subscribe()
    }
}
