//! What a container is to do right after its start. Until it is done the container does not run, as far as anybody is told.

use tracing::{info, warn};

use super::Failure;
use crate::pod_worker::Worker;
use crate::pod_worker::stop::pre_stop::without_tls;
use crate::pod_worker::sync::grace;
use crate::probe::hook::Done;
use oomlet_core::pod::env::EnvFacts;
use oomlet_core::pod::hook::Hook;
use oomlet_core::pod::stop_signal::StopSignal;
use oomlet_core::pod::{ContainerInstance, Pod};
use oomlet_core::reason::Reason;
use oomlet_core::trace::record::Kind;

impl Worker {
    /// A container whose hook fails is stopped. Dropping it at any await is safe: the runtime kills what is left of the hook's
    /// command, and the container runs on.
    pub(super) async fn post_start(
        &mut self,
        pod: &Pod,
        container: &ContainerInstance,
        hook: &Hook,
        env: &EnvFacts,
    ) -> Result<(), Failure> {
        let name = &container.name;
        info!(pod = %self.who, container = name, ?hook, "postStart hook");
        let address = env.pod_ips.first().map(String::as_str).filter(|ip| !ip.is_empty());
        let message = match self.context.hooks.run(hook, &container.id, address).await {
            Ok(Done::AsAsked) => return Ok(()),
            Ok(Done::WithoutTls(host)) => {
                self.tell_container(Kind::Warning, Reason::LifecycleHTTPFallback, name, without_tls(&host));
                return Ok(());
            }
            Err(why) => hook.failed(name, &self.who, &why),
        };
        // What it has said is for the status alone: it may have secrets in it.
        self.tell_container(Kind::Warning, Reason::FailedPostStartHook, name, "PostStartHook failed");
        self.tell_container(Kind::Pod, Reason::Killing, name, "FailedPostStartHook");
        // A signal of its own needs its process.
        if StopSignal::own(pod).any(|own| own == name)
            && let Err(error) = self.read().await
        {
            warn!(pod = %self.who, container = name, %error, "it gets its image's stop signal");
        }
        if let Err(error) = self.stop_all(pod, vec![vec![container.clone()]], grace(pod)).await {
            warn!(pod = %self.who, container = name, %error, "stopping a container whose postStart hook failed");
        }
        Err(Failure::post_start(message))
    }
}
