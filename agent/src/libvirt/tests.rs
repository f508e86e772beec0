//! Against libvirt's own `test` driver: real lookups, definitions and events, without a daemon; no jobs.

use std::{io::Write, sync::Arc};

use bytesize::ByteSize;
use futures::future::BoxFuture;
use tempfile::NamedTempFile;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use virt::connect::Connect;
use vmferry_core::{
    convergence::{Foresight, Ladder, Policy},
    disk::{Sharing, Transfer},
    instance::InstanceState,
    migration::Limits,
};

use super::{
    event::{self, Event},
    *,
};

const WEB: &str = "4dea22b3-1d52-48f3-9516-782e98ab3fa0";
const DATABASE: &str = "4dea22b3-1d52-48f3-9516-782e98ab3fa1";
const ABSENT: &str = "4dea22b3-1d52-48f3-9516-782e98ab3fa2";

/// A libvirt of our own: with a file each connection has its own domains, and `Libvirt` has one connection.
struct Host {
    libvirt: Libvirt,
    file: NamedTempFile,
}

fn domain_xml(name: &str, id: &str) -> String {
    format!(
        "<domain type='test'><name>{name}</name><uuid>{id}</uuid><memory unit='MiB'>256</memory><vcpu>2</vcpu>
         <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><devices/></domain>"
    )
}

fn host() -> Host {
    let mut file = NamedTempFile::new().expect("a temporary file");
    write!(file, "<node>{}</node>", domain_xml("web", WEB)).expect("written");
    let libvirt = Libvirt::new(&uri(&file));
    Host { libvirt, file }
}

fn uri(file: &NamedTempFile) -> String {
    format!("test://{}", file.path().display())
}

fn id(text: &str) -> InstanceId {
    text.parse().expect("a UUID")
}

async fn state(host: &Host) -> (InstanceState, Sighting) {
    let domain = host.libvirt.domain("web").await.expect("an answer").expect("there");
    (domain.state, domain.sighting)
}

async fn suspend(host: &Host) {
    let suspended = host.libvirt.change("suspend", |c| Ok(c.lookup_domain_by_name("web")?.suspend()?)).await;
    suspended.expect("suspended");
}

#[tokio::test]
async fn a_domain_is_found_by_name_and_by_uuid() {
    let host = host();
    let domain = host.libvirt.domain("web").await.expect("an answer").expect("there");
    assert_eq!(host.libvirt.domain(WEB).await.expect("an answer"), Some(domain.clone()));
    assert_eq!(host.libvirt.domains().await.expect("an answer"), std::slice::from_ref(&domain));
    assert_eq!((domain.id, domain.name.as_str()), (id(WEB), "web"));
    assert_eq!((domain.state, domain.sighting), (InstanceState::Active, Sighting::Running));
    assert_eq!((domain.persistent, domain.snapshots, domain.job), (true, 0, None));
    assert_eq!((domain.definition.memory, domain.definition.vcpus), (ByteSize::mib(256), 2));
    let xml = host.libvirt.migratable_xml(id(WEB)).await.expect("an answer");
    assert_eq!(vmferry_core::domain_xml::Definition::parse(&xml).expect("a domain").name, "web");
}

#[tokio::test]
async fn a_domain_that_is_not_there_is_no_error_until_something_is_wanted_of_it() {
    let Host { libvirt, file: _file } = host();
    for name in ["database", ABSENT, "", "we\0b"] {
        assert_eq!(libvirt.domain(name).await.expect("an answer"), None, "{name:?}");
    }
    assert_eq!(libvirt.job(id(ABSENT)).await.expect("an answer"), None);
    libvirt.undefine(id(ABSENT)).await.expect("nothing to do");
    libvirt.destroy_if_arriving(id(ABSENT)).await.expect("nothing to do");
    libvirt.await_job_end(id(ABSENT), Duration::ZERO).await.expect("no job");
    assert!(matches!(libvirt.migratable_xml(id(ABSENT)).await, Err(Error::NoDomain { .. })));
    assert!(matches!(libvirt.make_persistent(id(ABSENT)).await, Err(Error::NoDomain { .. })));
}

#[tokio::test]
async fn a_guest_that_runs_or_ran_is_neither_destroyed_nor_undefined() {
    let host = host();
    let destroyed = host.libvirt.destroy_if_arriving(id(WEB)).await;
    assert!(matches!(destroyed, Err(Error::NotArriving { sighting: Sighting::Running, .. })));
    suspend(&host).await;
    assert_eq!(state(&host).await, (InstanceState::Paused, Sighting::Paused));
    let destroyed = host.libvirt.destroy_if_arriving(id(WEB)).await;
    assert!(matches!(destroyed, Err(Error::NotArriving { sighting: Sighting::Paused, .. })));
    assert!(matches!(host.libvirt.undefine(id(WEB)).await, Err(Error::Active { .. })));
    assert_eq!(state(&host).await, (InstanceState::Paused, Sighting::Paused));
}

#[tokio::test]
async fn a_transient_domain_becomes_persistent_and_stays_it() {
    let host = host();
    let xml = domain_xml("database", DATABASE);
    let created = host.libvirt.change("create", move |c| Ok(c.create_domain_xml(&xml, 0).map(drop)?)).await;
    created.expect("created");
    let persistent = async || host.libvirt.domain(DATABASE).await.expect("an answer").expect("there").persistent;
    assert!(!persistent().await);
    for _ in 0..2 {
        host.libvirt.make_persistent(id(DATABASE)).await.expect("made persistent");
        assert!(persistent().await);
    }
}

#[tokio::test]
async fn events_of_a_domain_arrive_while_subscribed() {
    event::set_up();
    let host = host();
    let connection = Arc::new(Connect::open(Some(&uri(&host.file))).expect("connected"));
    let domain = connection.lookup_domain_by_name("web").expect("there");
    let (sender, mut events) = mpsc::unbounded_channel();
    let subscription = ffi::Subscription::new(&connection, &domain, &sender).expect("subscribed");
    drop(sender);
    domain.suspend().expect("suspended");
    let event = timeout(Duration::from_secs(5), events.recv()).await.expect("in time");
    let Some(Event::Lifecycle { event, detail }) = event else { panic!("{event:?}") };
    assert_eq!((event, detail), (sys::VIR_DOMAIN_EVENT_SUSPENDED, sys::VIR_DOMAIN_EVENT_SUSPENDED_PAUSED));
    drop(subscription);
    let end = timeout(Duration::from_secs(5), events.recv()).await.expect("libvirt freed its senders");
    assert!(end.is_none());
}

fn job_of(domain: &str) -> JobOrder {
    JobOrder {
        instance: id(domain),
        libvirt_socket: "/l".into(),
        way: Way::Tunnel { memory_socket: "/m".into(), disk_socket: "/d".into() },
        transfer: Transfer { sharing: Sharing::Unneeded, copied: vec![] },
        memory: ByteSize::mib(256),
        definitions: None,
        limits: Limits::default(),
        paused: false,
    }
}

fn stopped() -> Arc<Stopped> {
    Arc::new(Stopped::new(None))
}

fn control(cancel: CancellationToken) -> Control {
    let ladder = Ladder::new(&Policy::default(), ByteSize::mib(256));
    let remember: OnSwitch = Arc::new(|_| Box::pin(async { Ok(()) }));
    let (progress, deed) = (Arc::new(|_| ()), Arc::new(|_| ()));
    let (foresight, helm) = (Foresight::default(), Helm::default());
    Control { ladder, progress, deed, foresight, helm, cancel, remember, released: None }
}

struct NoLifeline;

impl Lifeline for NoLifeline {
    fn is_there(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Err("there is none".to_owned()) })
    }

    fn carries_memory(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn standing(&self) -> BoxFuture<'_, Result<Standing, String>> {
        Box::pin(async { Err("there is none".to_owned()) })
    }

    fn renew(&self) -> BoxFuture<'_, Result<Standing, String>> {
        Box::pin(async { Err("there is none".to_owned()) })
    }
}

#[tokio::test]
async fn a_job_that_libvirt_refuses_leaves_the_guest_where_it_is() {
    let host = host();
    // The job has a connection of its own, so this is about its own copy of the file's domain.
    let order = job_of(WEB);
    let refused =
        host.libvirt.migrate(&order, control(CancellationToken::new()), Arc::new(NoLifeline), stopped()).await;
    assert!(matches!(refused, Err(JobError::BeforeHandover { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_job_without_a_domain_or_cancelled_before_it_begins_is_not_begun() {
    let host = host();
    let order = job_of(ABSENT);
    let absent = host.libvirt.migrate(&order, control(CancellationToken::new()), Arc::new(NoLifeline), stopped()).await;
    assert!(matches!(absent, Err(JobError::Libvirt(Error::Refused { .. }))), "{absent:?}");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let cancelled = host.libvirt.migrate(&order, control(cancel), Arc::new(NoLifeline), stopped()).await;
    assert!(matches!(cancelled, Err(JobError::Aborted)), "{cancelled:?}");
}

#[tokio::test]
async fn a_libvirt_that_is_not_there_is_waited_for_a_while_and_is_no_missing_domain() {
    let libvirt = Libvirt::new("qemu+unix:///system?socket=/nonexistent/libvirt-sock");
    let start = Instant::now();
    let answer = libvirt.domain("web").await;
    assert!(matches!(answer, Err(Error::Disconnected { .. })), "{answer:?}");
    let waited = start.elapsed();
    assert!((2..10).contains(&waited.as_secs()), "{waited:?}");
}
