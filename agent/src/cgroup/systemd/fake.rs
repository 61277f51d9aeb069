//! A manager like systemd's on a socket of a test's own, in systemd's own words: a real one serves only a machine that
//! it runs.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tempfile::TempDir;
use zbus::connection::Builder;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};
use zbus::{Connection, Guid};

use super::bus::Sockets;

#[derive(Debug, Default)]
pub(super) struct Unit {
    pub active: bool,
    pub properties: BTreeMap<String, OwnedValue>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub units: BTreeMap<String, Unit>,
    /// Method names, in order.
    pub calls: Vec<&'static str>,
    /// How jobs end: `done` while empty.
    pub job_result: String,
    /// The next StartUnit finds its unit gone.
    pub forgets: bool,
    /// As the kernel does with a cgroup: its directory and files.
    pub cgroups: Option<PathBuf>,
    connections: Vec<Connection>,
    jobs: u32,
}

#[derive(Debug)]
pub(super) struct FakeSystemd {
    dir: TempDir,
    state: Arc<Mutex<State>>,
}

impl FakeSystemd {
    pub fn start() -> FakeSystemd {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeSystemd { dir, state: Arc::default() };
        let sockets = fake.sockets();
        std::fs::create_dir(&sockets.booted).unwrap();
        let listener = UnixListener::bind(&sockets.private).unwrap();
        let state = Arc::clone(&fake.state);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let builder = Builder::async_io_unix_stream(stream.unwrap());
                let builder = builder.server(Guid::generate()).unwrap().p2p();
                let manager = Manager(Arc::clone(&state));
                let builder = builder.serve_at("/org/freedesktop/systemd1", manager).unwrap();
                let connection = async_io::block_on(builder.build()).unwrap();
                state.lock().unwrap().connections.push(connection);
            }
        });
        fake
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn sockets(&self) -> Sockets {
        let at = |name| self.dir.path().join(name);
        Sockets { booted: at("booted"), private: at("private"), system_bus: at("bus") }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// As a `daemon-reexec` does.
    pub fn drop_connections(&self) {
        let connections = std::mem::take(&mut self.state().connections);
        connections.into_iter().for_each(|connection| async_io::block_on(connection.close()).unwrap());
    }

    pub fn number(&self, unit: &str, property: &str) -> Option<u64> {
        let state = self.state();
        let value = state.units.get(unit)?.properties.get(property)?;
        u64::try_from(value).ok()
    }
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnitExists(String),
    NoSuchUnit(String),
}

#[derive(Debug)]
struct Manager(Arc<Mutex<State>>);

impl Manager {
    fn state(&self, call: &'static str) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap();
        state.calls.push(call);
        state
    }

    /// The signal goes out before the answer: the client has to bear that.
    async fn job(&self, emitter: &SignalEmitter<'_>, unit: String) -> Result<OwnedObjectPath, Refusal> {
        let (id, result) = {
            let mut state = self.0.lock().unwrap();
            state.jobs += 1;
            let result = if state.job_result.is_empty() { "done" } else { &state.job_result };
            (state.jobs, result.to_owned())
        };
        let path = |id: u32| OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{id}"));
        let job = path(id).map_err(zbus::Error::from)?;
        // Somebody else's too, as there always are.
        let other = path(id + 1_000_000).map_err(zbus::Error::from)?;
        Self::job_removed(emitter, id + 1_000_000, other, "cron.service".into(), "failed".into()).await?;
        Self::job_removed(emitter, id, job.clone(), unit, result).await?;
        Ok(job)
    }
}

type Properties = Vec<(String, OwnedValue)>;

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {}

    async fn start_transient_unit(
        &self,
        name: String,
        mode: String,
        properties: Properties,
        auxiliary: Vec<(String, Properties)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refusal> {
        assert_eq!((mode.as_str(), auxiliary.len()), ("replace", 0));
        {
            let mut state = self.state("StartTransientUnit");
            if state.units.contains_key(&name) {
                return Err(Refusal::UnitExists(format!("Unit {name} was already loaded.")));
            }
            if let Some(root) = &state.cgroups {
                super::tests::make_cgroup(root, &name);
            }
            let unit = Unit { active: true, properties: properties.into_iter().collect() };
            state.units.insert(name.clone(), unit);
        }
        self.job(&emitter, name).await
    }

    async fn start_unit(
        &self,
        name: String,
        _mode: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refusal> {
        {
            let mut state = self.state("StartUnit");
            if std::mem::take(&mut state.forgets) {
                state.units.remove(&name);
            }
            match state.units.get_mut(&name) {
                Some(unit) => unit.active = true,
                None => return Err(Refusal::NoSuchUnit(format!("Unit {name} not found."))),
            }
        }
        self.job(&emitter, name).await
    }

    async fn stop_unit(
        &self,
        name: String,
        _mode: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refusal> {
        if self.state("StopUnit").units.remove(&name).is_none() {
            return Err(Refusal::NoSuchUnit(format!("Unit {name} not loaded.")));
        }
        self.job(&emitter, name).await
    }

    fn reset_failed_unit(&self, name: String) -> Result<(), Refusal> {
        drop(self.state("ResetFailedUnit"));
        Err(Refusal::NoSuchUnit(format!("Unit {name} not loaded.")))
    }

    fn set_unit_properties(
        &self,
        name: String,
        runtime: bool,
        properties: Properties,
    ) -> Result<(), Refusal> {
        assert!(runtime, "what the agent sets does not outlast a boot");
        let mut state = self.state("SetUnitProperties");
        match state.units.get_mut(&name) {
            Some(unit) => unit.properties.extend(properties),
            None => return Err(Refusal::NoSuchUnit(format!("Unit {name} not found."))),
        }
        Ok(())
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}
