//! Carries out a hook. It takes as long as it takes: whoever wants its end drops it, and the runtime then kills its command.

use super::http::{HttpClient, HttpError, NoAnswer};
use super::{authority, no_address_yet};
use crate::cri::RuntimeClient;
use oomlet_core::pod::hook::{Hook, HookFailure};
use oomlet_core::pod::probe::Check;

/// As kubelet of the release that we follow calls itself.
const USER_AGENT: &str = "kube-lifecycle/1.37";

/// On this node.
#[derive(Debug)]
pub struct Hooks {
    runtime: RuntimeClient,
    http: HttpClient,
}

/// A hook has ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    AsAsked,
    /// HTTPS was asked for, and HTTP has answered: of this host and port.
    WithoutTls(String),
}

impl Hooks {
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new(runtime: RuntimeClient) -> Result<Hooks, HttpError> {
        Ok(Hooks { runtime, http: HttpClient::new(USER_AGENT)? })
    }

    /// `address`: the pod's.
    ///
    /// # Errors
    /// In kubelet's words.
    pub async fn run(
        &self,
        hook: &Hook,
        container_id: &str,
        address: Option<&str>,
    ) -> Result<Done, HookFailure> {
        let failed = |error: String| HookFailure { error, output: String::new() };
        match hook {
            Hook::Exec { command } => self.exec(container_id, command).await.map(|()| Done::AsAsked),
            Hook::HttpGet { check, .. } => self.get(check, address).await.map_err(failed),
            Hook::Sleep { .. } => {
                tokio::time::sleep(hook.sleeps().unwrap_or_default()).await;
                Ok(Done::AsAsked)
            }
            Hook::Invalid => Err(failed("invalid handler: name exec, httpGet or sleep".to_owned())),
        }
    }

    async fn exec(&self, container_id: &str, command: &[String]) -> Result<(), HookFailure> {
        match self.runtime.exec_to_its_end(container_id, command.to_vec()).await {
            Ok(ran) if ran.exit_code == 0 => Ok(()),
            Ok(ran) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (words, code) = (command.join(" "), ran.exit_code);
                let error = format!("command '{words}' exited with {code}: {}", text(&ran.stderr));
                Err(HookFailure { error, output: text(&ran.output()) })
            }
            Err(error) => Err(HookFailure { error: error.as_grpc(), output: String::new() }),
        }
    }

    async fn get(&self, check: &Check, address: Option<&str>) -> Result<Done, String> {
        let (scheme, host, port, path, headers) = match check {
            Check::HttpGet { scheme, host, port, path, headers } => (*scheme, host, *port, path, headers),
            Check::Impossible(why) => return Err(why.clone()),
            other => return Err(format!("{other:?} is no hook")),
        };
        let host = host.as_deref().or(address).ok_or_else(no_address_yet)?;
        match self.http.answers(scheme, (host, port), path, headers).await {
            Ok(()) => Ok(Done::AsAsked),
            Err(NoAnswer::Other(why)) => Err(why),
            // What is meant for a server that shows who it is goes to no other.
            Err(NoAnswer::NoTls) => {
                let open = |(name, _): &&(String, String)| !name.eq_ignore_ascii_case("authorization");
                let headers: Vec<_> = headers.iter().filter(open).cloned().collect();
                match self.http.answers("http", (host, port), path, &headers).await {
                    Ok(()) => Ok(Done::WithoutTls(authority(host, port))),
                    Err(_) => Err("http: server gave HTTP response to HTTPS client".to_owned()),
                }
            }
        }
    }
}
