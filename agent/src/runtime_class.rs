//! Which handler of the runtime a pod's `runtimeClassName` means (pkg/kubelet/runtimeclass). Asked of the API server as a sandbox
//! is made; what it said last of a class holds while it is away, for a class never has another handler.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use tokio::time::timeout;

use crate::apiserver::{Clients, REQUEST_TIMEOUT, current};

#[derive(Debug, thiserror::Error)]
pub enum RuntimeClassError {
    #[error("runtimeclass.node.k8s.io {0:?} not found")]
    NotFound(String),
    #[error("failed to lookup RuntimeClass {name}: {why}")]
    Unknown { name: String, why: String },
    #[error(
        "runtimeClassName {0:?} needs an API server, and this node is in standalone mode; remove it, and the runtime's \
         default handler runs the pod"
    )]
    Standalone(String),
}

/// Handlers by class, as they were last told.
#[derive(Default)]
pub struct RuntimeClasses {
    /// `None`: standalone.
    clients: Option<Clients>,
    known: Mutex<BTreeMap<String, String>>,
}

/// A client has no `Debug` form.
impl std::fmt::Debug for RuntimeClasses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuntimeClasses").field("known", &self.known).finish_non_exhaustive()
    }
}

impl RuntimeClasses {
    #[must_use]
    pub fn new(clients: Option<Clients>) -> RuntimeClasses {
        RuntimeClasses { clients, known: Mutex::default() }
    }

    /// As the CRI has it: empty is the runtime's default.
    ///
    /// # Errors
    /// When there is no such class, or nobody says.
    pub async fn handler(&self, class: Option<&str>) -> Result<String, RuntimeClassError> {
        let Some(name) = class.filter(|name| !name.is_empty()) else { return Ok(String::new()) };
        let Some(clients) = &self.clients else { return Err(RuntimeClassError::Standalone(name.to_owned())) };
        let asked = async {
            let api: Api<RuntimeClass> = Api::all(current(clients).await);
            api.get_opt(name).await
        };
        let why = match timeout(REQUEST_TIMEOUT, asked).await {
            Ok(Ok(Some(class))) => {
                self.known().insert(name.to_owned(), class.handler.clone());
                return Ok(class.handler);
            }
            Ok(Ok(None)) => {
                self.known().remove(name);
                return Err(RuntimeClassError::NotFound(name.to_owned()));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server does not answer".to_owned(),
        };
        let known = self.known().get(name).cloned();
        known.ok_or_else(|| RuntimeClassError::Unknown { name: name.to_owned(), why })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn standalone_there_are_no_classes() {
        let classes = RuntimeClasses::default();
        for none in [None, Some("")] {
            assert_eq!(classes.handler(none).await.unwrap(), "");
        }
        let error = classes.handler(Some("gvisor")).await.unwrap_err();
        assert!(error.to_string().contains("\"gvisor\" needs an API server"), "{error}");
    }
}
