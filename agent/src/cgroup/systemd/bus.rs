//! systemd's manager over D-Bus: slices started, changed and stopped, each call and each job bounded.
//!
//! Two ways lead there. systemd's own socket comes first: no message bus daemon has to be there or to answer, which
//! matters most when memory is short. It serves root alone and may be absent from a container; then the system bus does.

mod private_socket;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_io::Timer;
use futures_lite::{FutureExt as _, StreamExt as _};
use zbus::connection::Builder;
use zbus::zvariant::OwnedObjectPath;
use zbus::{Connection, MatchRule, MessageStream};

use self::private_socket::PrivateSocket;
use super::properties::Property;
use crate::cgroup::CgroupError;

/// For a call's answer and again for its job, as libcontainer waits. Usually milliseconds.
const WITHIN: Duration = Duration::from_secs(30);
/// Signals of other units' jobs that may come while a call waits for its answer.
const QUEUED_SIGNALS: usize = 4096;
/// A unit can go away between the answer that it exists and the next call.
const ATTEMPTS: usize = 5;
const REPLACE: &str = "replace";

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;

    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[Property],
        auxiliary: &[(&str, &[Property])],
    ) -> zbus::Result<OwnedObjectPath>;

    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;

    fn set_unit_properties(&self, name: &str, runtime: bool, properties: &[Property]) -> zbus::Result<()>;
}

/// Arguments of the signal JobRemoved: number, job, unit, result.
type JobRemoved = (u32, OwnedObjectPath, String, String);

/// Where systemd is spoken to.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    /// There when systemd is the init system: sd_booted(3).
    pub booted: PathBuf,
    /// systemd's own, which speaks D-Bus without a bus.
    pub private: PathBuf,
    pub system_bus: PathBuf,
}

impl Default for Sockets {
    fn default() -> Self {
        Sockets {
            booted: "/run/systemd/system".into(),
            private: "/run/systemd/private".into(),
            system_bus: "/run/dbus/system_bus_socket".into(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Bus {
    sockets: Sockets,
    /// Made again when systemd has been executed anew or the bus daemon restarted.
    connection: Mutex<Connection>,
}

impl Bus {
    pub(super) fn connect(sockets: Sockets) -> Result<Bus, CgroupError> {
        if !sockets.booted.is_dir() {
            return Err(CgroupError::NoSystemd { booted: sockets.booted });
        }
        let connection = async_io::block_on(open(&sockets))?;
        Ok(Bus { sockets, connection: Mutex::new(connection) })
    }

    /// Makes the slice with all of `properties`, or gives the one that is there `limits`.
    pub(super) fn ensure(
        &self,
        unit: &str,
        properties: &[Property],
        limits: &[Property],
    ) -> Result<(), CgroupError> {
        self.call("make", unit, async |manager| {
            let mut attempts = 0;
            loop {
                attempts += 1;
                let start = manager.start_transient_unit(unit, REPLACE, properties, &[]);
                match finish(manager, start).await {
                    Err(error) if is(&error, "org.freedesktop.systemd1.UnitExists") => {}
                    done => return done,
                }
                // Made by an earlier run of the agent, or stopped and not yet forgotten: this starts the latter, and
                // nothing happens to the former.
                let changed = match finish(manager, manager.start_unit(unit, REPLACE)).await {
                    Ok(()) => manager.set_unit_properties(unit, true, limits).await,
                    Err(error) => Err(error),
                };
                match changed {
                    Err(error) if is_no_such_unit(&error) && attempts < ATTEMPTS => {}
                    done => return done,
                }
            }
        })
    }

    /// Stops and forgets the slice. One that is gone is fine.
    pub(super) fn stop(&self, unit: &str) -> Result<(), CgroupError> {
        self.call("stop", unit, async |manager| {
            match finish(manager, manager.stop_unit(unit, REPLACE)).await {
                Err(error) if !is_no_such_unit(&error) => return Err(error),
                _ => {}
            }
            // A unit that failed would be kept, for somebody to look at.
            match manager.reset_failed_unit(unit).await {
                Err(error) if !is_no_such_unit(&error) => Err(error),
                _ => Ok(()),
            }
        })
    }

    /// A call on a connection that turns out to be lost is made once more on a new one: each can be repeated.
    fn call(
        &self,
        action: &'static str,
        unit: &str,
        call: impl AsyncFn(&ManagerProxy<'static>) -> zbus::Result<()>,
    ) -> Result<(), CgroupError> {
        let failed =
            |error: zbus::Error| CgroupError::Unit { action, unit: unit.to_owned(), why: error.to_string() };
        async_io::block_on(async {
            let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let manager = ManagerProxy::new(&connection).await.map_err(failed)?;
            match call(&manager).await {
                Err(error) if is_lost(&error) => {
                    tracing::info!(%error, "connecting to systemd again");
                    let connection = open(&self.sockets).await?;
                    *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection.clone();
                    let manager = ManagerProxy::new(&connection).await.map_err(failed)?;
                    call(&manager).await.map_err(failed)
                }
                done => done.map_err(failed),
            }
        })
    }
}

/// The first socket that answers.
async fn open(sockets: &Sockets) -> Result<Connection, CgroupError> {
    let mut found = Vec::new();
    for (path, is_bus) in [(&sockets.private, false), (&sockets.system_bus, true)] {
        match open_one(path, is_bus).await {
            Ok(connection) => return Ok(connection),
            Err(error) => found.push(format!("{}: {error}", path.display())),
        }
    }
    Err(CgroupError::NoSystemdBus { found: found.join("; ") })
}

async fn open_one(path: &Path, is_bus: bool) -> zbus::Result<Connection> {
    let stream = UnixStream::connect(path)?;
    let builder = if is_bus {
        Builder::async_io_unix_stream(stream)
    } else {
        Builder::socket(PrivateSocket::new(stream)?).p2p()
    };
    let builder = builder.method_timeout(WITHIN).max_queued(QUEUED_SIGNALS);
    let connecting = async {
        let connection = builder.build().await?;
        // Without it the bus is told of no jobs. It also shows whether it is systemd that answers.
        ManagerProxy::new(&connection).await?.subscribe().await?;
        Ok(connection)
    };
    connecting.or(late("no answer")).await
}

/// Starts a job and waits until it is done.
async fn finish(
    manager: &ManagerProxy<'_>,
    start: impl Future<Output = zbus::Result<OwnedObjectPath>>,
) -> zbus::Result<()> {
    // Not by the proxy's own means, which look for the sender's name on a bus.
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .path(manager.inner().path())?
        .interface(manager.inner().interface())?
        .member("JobRemoved")?
        .build();
    // Before the call: the job may be done before its answer is read.
    let mut removed = MessageStream::for_match_rule(rule, manager.inner().connection(), None).await?;
    let job = start.await?;
    let result = async {
        while let Some(signal) = removed.next().await {
            let signal = signal?;
            let (_, removed, _, result): JobRemoved = signal.body().deserialize()?;
            if removed == job {
                return Ok(result);
            }
        }
        Err(zbus::Error::from(io::Error::from(io::ErrorKind::ConnectionAborted)))
    };
    let result = result.or(late("its job is not done")).await?;
    if result == "done" { Ok(()) } else { Err(zbus::Error::Failure(format!("its job ended as `{result}`"))) }
}

async fn late<T>(what: &str) -> zbus::Result<T> {
    Timer::after(WITHIN).await;
    Err(zbus::Error::Failure(format!("{what} after {} s", WITHIN.as_secs())))
}

fn is(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(found, ..) if found.as_str() == name)
}

fn is_no_such_unit(error: &zbus::Error) -> bool {
    is(error, "org.freedesktop.systemd1.NoSuchUnit")
}

/// The other side has gone away, and may be back.
fn is_lost(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::InputOutput(error) => error.kind() != io::ErrorKind::TimedOut,
        _ => ["Disconnected", "NoReply", "ServiceUnknown", "NameHasNoOwner"]
            .iter()
            .any(|name| is(error, &format!("org.freedesktop.DBus.Error.{name}"))),
    }
}

#[cfg(test)]
mod tests;
