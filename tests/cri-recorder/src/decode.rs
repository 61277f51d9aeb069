//! From a message's bytes to JSON with the fields' names of the CRI, without those that have their default, as protobuf
//! leaves them out.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use k8s_cri::v1 as cri;
use prost::Message;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The calls that change something, each with its two types.
macro_rules! recorded {
    ($($name:ident: $request:ident, $answer:ident;)*) => {
        pub fn is_recorded(name: &str) -> bool {
            [$(stringify!($name)),*].contains(&name)
        }

        pub fn request(name: &str, message: Bytes) -> Result<Value> {
            match name {
                $(stringify!($name) => json_of::<cri::$request>(message),)*
                _ => bail!("{name} is not recorded"),
            }
        }

        pub fn answer(name: &str, message: Bytes) -> Result<Value> {
            match name {
                $(stringify!($name) => json_of::<cri::$answer>(message),)*
                _ => bail!("{name} is not recorded"),
            }
        }
    };
}

recorded! {
    RunPodSandbox: RunPodSandboxRequest, RunPodSandboxResponse;
    StopPodSandbox: StopPodSandboxRequest, StopPodSandboxResponse;
    RemovePodSandbox: RemovePodSandboxRequest, RemovePodSandboxResponse;
    CreateContainer: CreateContainerRequest, CreateContainerResponse;
    StartContainer: StartContainerRequest, StartContainerResponse;
    StopContainer: StopContainerRequest, StopContainerResponse;
    RemoveContainer: RemoveContainerRequest, RemoveContainerResponse;
    UpdateContainerResources: UpdateContainerResourcesRequest, UpdateContainerResourcesResponse;
    ReopenContainerLog: ReopenContainerLogRequest, ReopenContainerLogResponse;
    ExecSync: ExecSyncRequest, ExecSyncResponse;
    Exec: ExecRequest, ExecResponse;
    Attach: AttachRequest, AttachResponse;
    PortForward: PortForwardRequest, PortForwardResponse;
    CheckpointContainer: CheckpointContainerRequest, CheckpointContainerResponse;
    UpdateRuntimeConfig: UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse;
    PullImage: PullImageRequest, PullImageResponse;
    RemoveImage: RemoveImageRequest, RemoveImageResponse;
}

/// Says that there was more in the message than the types of this program's CRI know.
const UNKNOWN: &str = "fields_of_a_newer_cri";
/// Maps of words: an empty one is one.
const MAPS: [&str; 5] = ["annotations", "labels", "options", "sysctls", "unified"];
/// Credentials are nobody's to keep.
const SECRET: &str = "auth";

fn json_of<M: Message + Default + Serialize>(message: Bytes) -> Result<Value> {
    let length = message.len();
    let decoded = M::decode(message).context("not a message of the CRI")?;
    let mut value = lean(serde_json::to_value(&decoded)?);
    if let Value::Object(fields) = &mut value {
        if fields.contains_key(SECRET) {
            fields.insert(SECRET.to_owned(), json!("$SECRET"));
        }
        if decoded.encoded_len() < length {
            fields.insert(UNKNOWN.to_owned(), json!(true));
        }
    }
    Ok(value)
}

fn lean(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let value = if MAPS.contains(&name.as_str()) { value } else { lean(value) };
                (name, value)
            });
            // `value`: an Int64Value says by being there that it is set, also to 0.
            let kept =
                fields.filter(|(name, value)| !is_default(value) || name == "value" && value.is_number());
            Value::Object(kept.collect::<Map<_, _>>())
        }
        Value::Array(all) => Value::Array(all.into_iter().map(lean).collect()),
        other => other,
    }
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_its_default_is_left_out() {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
            labels: [("empty".to_owned(), String::new())].into(),
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(cri::LinuxContainerResources { oom_score_adj: -997, ..Default::default() }),
                security_context: Some(cri::LinuxContainerSecurityContext {
                    run_as_user: Some(cri::Int64Value { value: 0 }),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        };
        let sent = cri::CreateContainerRequest { config: Some(config), ..Default::default() };
        let expected = json!({ "config": {
            "metadata": { "name": "main" },
            "labels": { "empty": "" },
            "linux": { "resources": { "oom_score_adj": -997 }, "security_context": { "run_as_user": { "value": 0 } } },
        } });
        assert_eq!(request("CreateContainer", sent.encode_to_vec().into()).unwrap(), expected);
        assert!(!is_recorded("ListContainers") && request("ListContainers", Bytes::new()).is_err());
    }

    #[test]
    fn credentials_are_not_kept_and_what_is_not_known_is_told() {
        let auth = cri::AuthConfig { password: "hunter2".to_owned(), ..Default::default() };
        let mut sent = cri::PullImageRequest { auth: Some(auth), ..Default::default() }.encode_to_vec();
        assert_eq!(request("PullImage", sent.clone().into()).unwrap(), json!({ SECRET: "$SECRET" }));
        // Field 100, a number: 1.
        sent.extend([0xa0, 0x06, 0x01]);
        assert_eq!(request("PullImage", sent.into()).unwrap()[UNKNOWN], true);
        assert!(request("PullImage", Bytes::from_static(&[0xff])).is_err());
    }
}
