//! What the runtime says of itself: whether it is fit, and what it can.

use k8s_cri::v1 as cri;

/// `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeStatus {
    pub conditions: Vec<RuntimeCondition>,
    /// None from one that does not tell (containerd 1.x).
    pub handlers: Vec<RuntimeHandler>,
    /// Whether `supplementalGroupsPolicy: Strict` is kept; `None` from one that does not tell.
    pub supplemental_groups_policy: Option<bool>,
}

/// A condition of `Status`: `RuntimeReady`, `NetworkReady`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeCondition {
    pub name: String,
    pub status: bool,
    /// Reason and message, empty when all is well.
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeHandler {
    /// Empty: what runs pods that name none.
    pub name: String,
    pub recursive_read_only_mounts: bool,
}

impl RuntimeStatus {
    /// Of pods that name no handler.
    #[must_use]
    pub fn has_recursive_read_only_mounts(&self) -> bool {
        self.handlers.iter().any(|handler| handler.name.is_empty() && handler.recursive_read_only_mounts)
    }
}

impl From<cri::StatusResponse> for RuntimeStatus {
    fn from(answer: cri::StatusResponse) -> RuntimeStatus {
        let condition = |c: cri::RuntimeCondition| RuntimeCondition {
            name: c.r#type,
            status: c.status,
            message: [c.reason, c.message]
                .into_iter()
                .filter(|s| !s.is_empty())
                .collect::<Vec<_>>()
                .join(": "),
        };
        let handler = |h: cri::RuntimeHandler| RuntimeHandler {
            name: h.name,
            recursive_read_only_mounts: h.features.is_some_and(|f| f.recursive_read_only_mounts),
        };
        RuntimeStatus {
            conditions: answer.status.unwrap_or_default().conditions.into_iter().map(condition).collect(),
            handlers: answer.runtime_handlers.into_iter().map(handler).collect(),
            supplemental_groups_policy: answer.features.map(|f| f.supplemental_groups_policy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_can_is_that_of_its_default_handler() {
        let handler = |name: &str, rro| cri::RuntimeHandler {
            name: name.to_owned(),
            features: Some(cri::RuntimeHandlerFeatures {
                recursive_read_only_mounts: rro,
                ..Default::default()
            }),
        };
        for (handlers, expected) in [
            (vec![], false),
            (vec![handler("runc", true)], false),
            (vec![handler("", true), handler("runc", true)], true),
            (vec![handler("", false), handler("kata", true)], false),
        ] {
            let answer = cri::StatusResponse { runtime_handlers: handlers, ..Default::default() };
            let status = RuntimeStatus::from(answer);
            assert_eq!(status.has_recursive_read_only_mounts(), expected, "{status:?}");
            assert_eq!(status.supplemental_groups_policy, None);
        }
    }
}
