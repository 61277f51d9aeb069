//! Who the node is to the API server: the kubeconfig, TLS bootstrap where it is of no use, and rotation of the client
//! certificate. One task; what it makes is a [`Connection`] that [`following::client`] follows.
//!
//! It ends with the agent alone. What goes wrong is told once, in words, and tried again with back-off; files that somebody
//! puts right are seen.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kube::{Client, Config};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::CertificateError;
use super::request::{self, Purpose};
use super::store::Store;
use crate::apiserver::credentials;
use crate::apiserver::following::Connection;
use crate::apiserver::kubeconfig::{self, KubeconfigError};
use crate::apiserver::transport;
use crate::instruments::certificates::Certificate;
use oomlet_core::certificate::{Found, Need, jitter_of, need, retry_delay};

/// How often files and the time of rotation are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// One that was made a moment ago is not made anew at once.
const ROTATE_AGAIN: Duration = Duration::from_secs(600);

/// What `oomlet run` says of it.
#[derive(Clone, Debug)]
pub struct Options {
    pub kubeconfig: PathBuf,
    pub bootstrap_kubeconfig: Option<PathBuf>,
    pub cert_dir: PathBuf,
    /// `rotateCertificates`.
    pub rotate: bool,
    pub node_name: String,
}

#[derive(Debug)]
pub struct ClientIdentity {
    options: Options,
    store: Store,
    connection: watch::Sender<Connection>,
    /// What was last said of a problem, so that it is said once.
    told: Option<String>,
    times: Certificate,
    /// When rotation made a certificate last.
    rotated: Option<Instant>,
}

/// An identity that is in use.
struct InUse {
    client: Client,
    server: String,
    /// Of the client certificate, where there is one.
    certificate: Option<(Found, f64)>,
    stamps: Vec<Option<SystemTime>>,
}

impl ClientIdentity {
    #[must_use]
    pub fn new(options: Options) -> (ClientIdentity, watch::Receiver<Connection>) {
        let (connection, receiver) = watch::channel(Connection::default());
        let store = Store::new(&options.cert_dir, "kubelet-client");
        let times = Certificate::default();
        (ClientIdentity { options, store, connection, told: None, times, rotated: None }, receiver)
    }

    /// Whose certificate's time and failed renewals are shown.
    #[must_use]
    pub fn timed(mut self, times: Certificate) -> ClientIdentity {
        self.times = times;
        self
    }

    pub async fn run(mut self, cancel: CancellationToken) {
        // Cancel-safe: files are replaced in one step each, and the key of a request that waits is kept.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.hold() => {}
        }
    }

    async fn hold(&mut self) {
        let mut failed = 0;
        loop {
            match self.identity().await {
                Ok(in_use) => {
                    failed = 0;
                    let host =
                        in_use.server.split_once("://").map_or(in_use.server.as_str(), |(_, rest)| rest);
                    let host = host.trim_end_matches('/');
                    self.connection.send_modify(|c| {
                        c.client = Some(in_use.client.clone());
                        c.host = host.into();
                    });
                    if let Some((Found::Certificate(validity), _)) = &in_use.certificate {
                        self.times.lasts_until(validity.not_after_s);
                    }
                    self.keep(in_use).await;
                }
                Err(error) => {
                    failed += 1;
                    self.times.failed();
                    self.tell(Some(kubeconfig::chain(&error)));
                    sleep(retry_delay(failed)).await;
                }
            }
        }
    }

    /// `None`: all is well.
    fn tell(&mut self, problem: Option<String>) {
        if self.told == problem {
            return;
        }
        match &problem {
            Some(text) => tracing::error!("{text}; pods run on, and it is tried again"),
            None => tracing::info!(kubeconfig = %self.options.kubeconfig.display(), "the API server answers"),
        }
        self.connection.send_modify(|c| c.problem.clone_from(&problem));
        self.told = problem;
    }

    /// From the files, or by bootstrap.
    async fn identity(&self) -> Result<InUse, CertificateError> {
        let path = &self.options.kubeconfig;
        let stamps = self.stamps();
        let mut loaded = kubeconfig::load(path);
        if loaded.as_ref().is_err_and(KubeconfigError::wants_bootstrap) {
            // An older certificate may have taken the place of a broken one by now.
            if self.store.look().1.is_some() {
                loaded = kubeconfig::load(path);
            }
            if let (Err(error), Some(bootstrap)) = (&loaded, &self.options.bootstrap_kubeconfig)
                && error.wants_bootstrap()
            {
                // At further attempts it is the same: what goes wrong with them is told.
                if self.told.is_none() {
                    tracing::info!(because = %error, bootstrap = %bootstrap.display(), "TLS bootstrap");
                }
                self.bootstrap(bootstrap).await?;
                loaded = kubeconfig::load(path);
            }
        }
        let mut config = loaded?;
        self.prefer_rotated(&mut config);
        let certificate = kubeconfig::certificate(&config).map(|credentials| {
            let der = credentials.key.cert.first().map(AsRef::as_ref).unwrap_or_default();
            (Found::Certificate(credentials.validity), jitter_of(der))
        });
        let server = config.cluster_url.to_string();
        let client = transport::client(config)
            .map_err(|source| CertificateError::Client { path: path.clone(), source })?;
        Ok(InUse { client, server, certificate, stamps })
    }

    /// Where rotation has made a later certificate than a kubeconfig that carries its own.
    fn prefer_rotated(&self, config: &mut Config) {
        if !self.options.rotate {
            return;
        }
        let Some(own) = kubeconfig::certificate(config) else { return };
        if let (_, Some(rotated)) = self.store.look()
            && rotated.validity.not_after_s > own.validity.not_after_s
            && let Ok(pem) = std::fs::read(self.store.current())
        {
            kubeconfig::set_certificate(config, &pem);
        }
    }

    fn stamps(&self) -> Vec<Option<SystemTime>> {
        let modified = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
        vec![modified(&self.options.kubeconfig), modified(&self.store.current())]
    }

    /// Until the identity is of no more use, or another is there.
    async fn keep(&mut self, in_use: InUse) {
        let mut failed = 0;
        loop {
            self.probe(&in_use).await;
            let delay = match in_use
                .certificate
                .as_ref()
                .map(|(found, jitter)| need(found, *jitter, credentials::now_s()))
            {
                Some(Need::Replace(fault)) => {
                    tracing::warn!(%fault, "the client certificate");
                    return;
                }
                Some(Need::Rotate) if self.options.rotate && self.may_rotate() => {
                    match self.rotate(&in_use.client).await {
                        Ok(()) => {
                            self.rotated = Some(Instant::now());
                            return;
                        }
                        Err(error) => {
                            failed += 1;
                            self.times.failed();
                            let text = kubeconfig::chain(&error);
                            tracing::warn!("the client certificate is due and cannot be rotated yet: {text}");
                            retry_delay(failed)
                        }
                    }
                }
                Some(Need::Nothing { rotate_at_s }) => {
                    let left_s = u64::try_from(rotate_at_s - credentials::now_s()).unwrap_or(0);
                    LOOK_EVERY.min(Duration::from_secs(left_s.max(1)))
                }
                Some(Need::Rotate) | None => LOOK_EVERY,
            };
            sleep(delay).await;
            if self.stamps() != in_use.stamps {
                return;
            }
        }
    }

    /// A certificate of a signer whose clock is behind is due as it comes.
    fn may_rotate(&self) -> bool {
        self.rotated.is_none_or(|at| at.elapsed() >= ROTATE_AGAIN)
    }

    /// Asks the server something that everybody may ask, so that a token it does not know or a CA that does not fit is told
    /// as such. Once it has answered, others will see what goes wrong.
    async fn probe(&mut self, in_use: &InUse) {
        if self.told.is_none() && self.connection.borrow().problem.is_none() && self.answered() {
            return;
        }
        let answer = timeout(PROBE_TIMEOUT, in_use.client.apiserver_version()).await;
        let path = &self.options.kubeconfig;
        let problem = match answer {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => {
                kubeconfig::explain(path, &in_use.server, &error).map(|error| error.to_string())
            }
            Err(_) => {
                let (path, server) = (path.clone(), in_use.server.clone());
                let cause = format!("no answer within {} s", PROBE_TIMEOUT.as_secs());
                Some(KubeconfigError::Unreachable { path, server, cause }.to_string())
            }
        };
        if problem.is_none() && self.told.is_none() {
            // The first answer is worth a line too.
            self.told = Some(String::new());
        }
        self.tell(problem);
        self.connection.send_modify(|c| c.answered = self.told.is_none());
    }

    fn answered(&self) -> bool {
        self.connection.borrow().answered
    }

    /// A key, a request with the bootstrap identity, and a kubeconfig that points to what comes back.
    async fn bootstrap(&self, bootstrap: &Path) -> Result<(), CertificateError> {
        let config = kubeconfig::load(bootstrap)?;
        let server = config.cluster_url.to_string();
        let client = transport::client(config)
            .map_err(|source| CertificateError::Client { path: bootstrap.to_owned(), source })?;
        self.store.make_dir()?;
        let key = request::kept_key(&self.store.pending_key())?;
        let asked = request::certificate(&client, &self.options.node_name, &Purpose::Client, &key).await;
        let pem = asked.map_err(|error| {
            if error.spoils_the_key() {
                self.store.forget_pending_key();
            }
            match error {
                request::RequestError::Api { signer, cause } => {
                    match kubeconfig::explain(bootstrap, &server, &cause) {
                        Some(explained) => CertificateError::Kubeconfig(explained),
                        None => request::RequestError::Api { signer, cause }.into(),
                    }
                }
                error => error.into(),
            }
        })?;
        let path = self.store.save(&pem, &key.serialize_pem())?;
        kubeconfig::write(&self.options.kubeconfig, kubeconfig::cluster(bootstrap)?, &self.store.current())?;
        self.store.forget_pending_key();
        tracing::info!(certificate = %path.display(), kubeconfig = %self.options.kubeconfig.display(), "the node has its client certificate");
        Ok(())
    }

    /// A new key and a new certificate by the identity in use.
    async fn rotate(&self, client: &Client) -> Result<(), CertificateError> {
        let key = request::kept_key(&self.store.pending_key())?;
        let asked = request::certificate(client, &self.options.node_name, &Purpose::Client, &key).await;
        let pem = asked.inspect_err(|error| {
            if error.spoils_the_key() {
                self.store.forget_pending_key();
            }
        })?;
        let path = self.store.save(&pem, &key.serialize_pem())?;
        self.store.forget_pending_key();
        tracing::info!(certificate = %path.display(), "the client certificate is rotated");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
