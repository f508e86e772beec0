//! The one call, on a thread of its own.

use std::{
    convert::Infallible,
    ffi::CStr,
    fmt::Write as _,
    net::IpAddr,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use virt::{connect::Connect, domain::Domain};
use virt_sys as sys;
use vmferry_core::{convergence::Throttle, direct::DirectEnd, id::InstanceId};

use super::{Definitions, JobOrder, Way, steer::whole_mib};
use crate::libvirt::{
    Error, Fault, Libvirt,
    connection::is_alive,
    event::{self, Event},
    ffi::{self, Parameter},
    reading::{job, lookup, or_gone},
};

/// Between two looks at a job whose answer somebody else awaited, and how long libvirt may fail to say.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// See [`LOOK_AGAIN`].
const SILENCE: Duration = Duration::from_secs(60);

/// What libvirt is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// To move the guest.
    Afresh,
    /// To send what is left of one that was switched to postcopy.
    Resuming,
    /// Nothing: it has been asked to move the guest by a process whose call was lost, and does so.
    Joining,
}

/// Keeps a call's events coming until it is dropped.
pub(super) type Watching = oneshot::Sender<Infallible>;

/// How the one call ended.
pub(super) enum Call {
    /// It was not made: libvirt does not answer.
    Unconnected(Error),
    /// It was not made.
    Unasked(Fault),
    Succeeded,
    Failed(Fault),
    /// Its connection broke: no answer.
    Lost(Fault),
}

/// Makes the call, and waits for its return. What comes with it keeps the events coming until it is dropped.
pub(super) async fn make(
    libvirt: &Libvirt,
    order: &JobOrder,
    sender: &event::Sender,
    begin: Begin,
) -> (Call, Option<Watching>) {
    let id = order.instance;
    // A connection of its own: this call takes one for minutes, and the others are few.
    let connection = match libvirt.connect(&format!("migrate domain {id}")).await {
        Ok(connection) => Arc::new(connection),
        Err(error) => return (Call::Unconnected(error), None),
    };
    let (returned, call) = oneshot::channel();
    let (watching, watched) = oneshot::channel::<Infallible>();
    let call_thread = {
        let (order, sender) = (order.clone(), sender.clone());
        move || in_thread(&connection, &order, begin, &sender, returned, watched)
    };
    // A thread, not the blocking pool: when the process exits the runtime waits for the pool, and so for the
    // migration, which needs neither of them to go on.
    if let Err(error) = thread::Builder::new().name(format!("migrate-{id}")).spawn(call_thread) {
        let source = Fault { code: sys::VIR_ERR_SYSTEM_ERROR, message: error.to_string() };
        return (Call::Unasked(source), None);
    }
    let call = call.await.unwrap_or_else(|_| {
        Call::Lost(Fault { code: sys::VIR_ERR_INTERNAL_ERROR, message: "the call's thread died".to_owned() })
    });
    (call, Some(watching))
}

/// The call, and around it what must be there before and after. Everything here blocks.
fn in_thread(
    connection: &Arc<Connect>,
    order: &JobOrder,
    begin: Begin,
    sender: &event::Sender,
    returned: oneshot::Sender<Call>,
    watched: oneshot::Receiver<Infallible>,
) {
    let prepare = || {
        let id = order.instance;
        let no_domain = || Fault { code: sys::VIR_ERR_NO_DOMAIN, message: format!("there is no domain {id}") };
        let domain = lookup(connection, id)?.ok_or_else(no_domain)?;
        // Before the job: no event of it may be missed.
        let subscription = ffi::Subscription::new(connection, &domain, sender)?;
        let (state, reason) = ffi::state(&domain)?;
        let was_stopped = state == sys::VIR_DOMAIN_PAUSED && reason == sys::VIR_DOMAIN_PAUSED_MIGRATION;
        match begin {
            // It was told to somebody who has gone.
            Begin::Joining if was_stopped => {
                let detail = sys::VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED;
                let _ = sender.send(Event::Lifecycle { event: sys::VIR_DOMAIN_EVENT_SUSPENDED, detail });
            }
            Begin::Afresh | Begin::Joining if state != sys::VIR_DOMAIN_RUNNING => {
                let _ = sender.send(Event::NotRunning);
            }
            Begin::Afresh | Begin::Joining | Begin::Resuming => {}
        }
        Ok::<_, Fault>((domain, subscription))
    };
    let (domain, _subscription) = match prepare() {
        Ok(prepared) => prepared,
        // It has gone since it was seen to leave.
        Err(fault) if begin == Begin::Joining && fault.is(&[sys::VIR_ERR_NO_DOMAIN]) => {
            let _ = returned.send(Call::Succeeded);
            return;
        }
        Err(fault) => {
            let _ = returned.send(Call::Unasked(fault));
            return;
        }
    };
    if begin == Begin::Joining {
        let _ = returned.send(joined(connection, order.instance, &domain));
        let _ = watched.blocking_recv();
        return;
    }
    let libvirt_uri = format!("qemu+unix:///system?socket={}", socket_uri(&order.libvirt_socket));
    // Of a guest that is resumed disks and definition are where they shall be, and nothing is slowed down any more.
    let is_afresh = begin == Begin::Afresh;
    let places = order.way.places(is_afresh && !order.transfer.copied.is_empty());
    let mut parameters: Vec<_> = places.iter().map(|(name, place)| (*name, Parameter::Text(place))).collect();
    let copied = order.transfer.copied.iter().filter(|_| is_afresh);
    parameters.extend(copied.map(|disk| (sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS, Parameter::Text(disk))));
    if let Some(Definitions { live, persistent }) = order.definitions.as_ref().filter(|_| is_afresh) {
        parameters.push((sys::VIR_MIGRATE_PARAM_DEST_XML, Parameter::Text(live)));
        parameters.push((sys::VIR_MIGRATE_PARAM_PERSIST_XML, Parameter::Text(persistent)));
    }
    if let Some(bandwidth) = order.limits.bandwidth {
        parameters.push((sys::VIR_MIGRATE_PARAM_BANDWIDTH, Parameter::Number(whole_mib(bandwidth))));
        if order.limits.policy.may_postcopy() {
            parameters.push((sys::VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY, Parameter::Number(whole_mib(bandwidth))));
        }
    }
    if let Some(Throttle { initial, increment }) = order.limits.policy.throttle().filter(|_| is_afresh) {
        parameters.push((sys::VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL, Parameter::Percent(initial)));
        parameters.push((sys::VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT, Parameter::Percent(increment)));
    }
    if is_afresh && order.limits.streams.are_several() {
        let streams = Parameter::Count(order.limits.streams.get().into());
        parameters.push((sys::VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, streams));
    }
    let flags = match begin {
        Begin::Afresh => order.flags(),
        Begin::Resuming | Begin::Joining => {
            let _ = sender.send(Event::Broken(false));
            order.resuming_flags()
        }
    };
    let call = match ffi::migrate(&domain, &libvirt_uri, &parameters, flags) {
        Ok(()) => Call::Succeeded,
        Err(fault) if is_alive(connection) => Call::Failed(fault),
        Err(fault) => Call::Lost(fault),
    };
    let _ = returned.send(call);
    // The last events are still under way. Ends with an error when the watcher is done.
    let _ = watched.blocking_recv();
}

/// Waits for the end of a job whose answer went to somebody who has gone: what has become of the guest tells it as well. Blocks.
fn joined(connection: &Connect, id: InstanceId, domain: &Domain) -> Call {
    let mut said = Instant::now();
    loop {
        match or_gone(job(domain)) {
            Ok(Some(None) | None) => break,
            Ok(Some(Some(_))) => said = Instant::now(),
            Err(fault) if !is_alive(connection) || said.elapsed() > SILENCE => return Call::Lost(fault),
            Err(fault) => tracing::debug!(%id, fault.message, "the job may go on"),
        }
        thread::sleep(LOOK_AGAIN);
    }
    match lookup(connection, id).and_then(|domain| domain.as_ref().map(ffi::state).transpose()) {
        // Its definition goes with it, in the same step.
        Ok(None | Some((sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_MIGRATED))) => Call::Succeeded,
        Ok(Some(_)) => {
            let message = "libvirt has ended the migration; why, it told the agent that was there before".to_owned();
            Call::Failed(Fault { code: sys::VIR_ERR_OPERATION_FAILED, message })
        }
        Err(fault) => Call::Lost(fault),
    }
}

impl Way {
    /// What libvirt is told of it.
    fn places(&self, has_disks: bool) -> Vec<(&'static CStr, String)> {
        match self {
            Self::Tunnel { memory_socket, disk_socket } => {
                let mut places = vec![(sys::VIR_MIGRATE_PARAM_URI, format!("unix://{}", socket_uri(memory_socket)))];
                if has_disks {
                    places.push((sys::VIR_MIGRATE_PARAM_DISKS_URI, format!("unix://{}", socket_uri(disk_socket))));
                }
                places
            }
            // Disks go to the same address without being told.
            Self::Direct(DirectEnd { address, name }) => {
                let host = match address {
                    IpAddr::V4(v4) => v4.to_string(),
                    IpAddr::V6(v6) => format!("[{v6}]"),
                };
                vec![
                    (sys::VIR_MIGRATE_PARAM_URI, format!("tcp://{host}")),
                    (sys::VIR_MIGRATE_PARAM_LISTEN_ADDRESS, address.to_string()),
                    (sys::VIR_MIGRATE_PARAM_TLS_DESTINATION, name.clone()),
                ]
            }
        }
    }
}

/// A path as it stands in a URI: libvirt decodes it.
pub(in crate::libvirt) fn socket_uri(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;
    use vmferry_core::{
        disk::{Sharing, Transfer},
        migration::Limits,
    };

    use super::*;

    #[test]
    fn what_goes_directly_goes_by_tls_only_and_to_who_has_the_name() {
        let order = |way| JobOrder {
            instance: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".parse().expect("a UUID"),
            libvirt_socket: "/l".into(),
            way,
            transfer: Transfer { sharing: Sharing::Unneeded, copied: vec![] },
            memory: ByteSize::gib(1),
            definitions: None,
            limits: Limits { streams: 4.try_into().expect("some"), ..Limits::default() },
            paused: false,
        };
        let tunnel = Way::Tunnel { memory_socket: "/m".into(), disk_socket: "/d".into() };
        let direct = |address: &str| {
            Way::Direct(DirectEnd { address: address.parse().expect("an address"), name: "node-31".into() })
        };
        let places = |way: &Way| way.places(true).into_iter().map(|(_, place)| place).collect::<Vec<_>>();
        assert_eq!(places(&tunnel), ["unix:///m", "unix:///d"]);
        assert_eq!(places(&direct("10.0.0.31")), ["tcp://10.0.0.31", "10.0.0.31", "node-31"]);
        assert_eq!(places(&direct("fd00::31")), ["tcp://[fd00::31]", "fd00::31", "node-31"]);
        let with = |way, flag| order(way).flags() & flag != 0;
        assert!(!with(tunnel.clone(), sys::VIR_MIGRATE_TLS) && with(direct("10.0.0.31"), sys::VIR_MIGRATE_TLS));
        assert!(with(tunnel, sys::VIR_MIGRATE_PARALLEL) && with(direct("10.0.0.31"), sys::VIR_MIGRATE_PARALLEL));
    }

    #[test]
    fn a_path_cannot_break_out_of_its_uri() {
        assert_eq!(socket_uri(Path::new("/run/vmferry/0192-a/libvirt.sock")), "/run/vmferry/0192-a/libvirt.sock");
        assert_eq!(socket_uri(Path::new("/run/a b&mode=x?#%")), "/run/a%20b%26mode%3Dx%3F%23%25");
    }
}
