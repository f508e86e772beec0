//! The testbed itself: what all other end-to-end tests rely on.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Options, Testbed,
    capture::Direction,
    frames::KINDS,
    guest::{BootSectorGuest, LinuxGuest, Tool},
    layout::Layout,
    network::Link,
    stream, teardown,
    wait::{SOON, until},
};

fn without_agents() -> Options {
    Options { agents: false, ..Options::default() }
}

/// Whatever bears the testbed's name on this machine.
fn remains(layout: &Layout) -> Vec<String> {
    let fabric = layout.fabric();
    let mut remains = Vec::new();
    for directory in [
        "/run/netns",
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup/systemd",
        "/run/systemd/nspawn/propagate",
    ] {
        let names =
            fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path().display().to_string());
        remains.extend(
            names.filter(|name| name.contains(&format!("/{fabric}-")) || name.ends_with(&format!("/{fabric}"))),
        );
    }
    let paths = [layout.run_dir(), layout.disk_dir()];
    remains.extend(paths.into_iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    remains.extend(mounts.lines().filter(|line| line.contains(&format!("{fabric}-"))).map(str::to_owned));
    remains
}

/// Moves a guest with libvirt alone, over UNIX sockets in the shared directory.
fn move_by_libvirt(testbed: &Testbed, guest: &str, from: &str, to: &str) -> Result<()> {
    let proxy = format!("{to}-libvirt.sock");
    let destination = testbed.host(to)?;
    let socket = destination.shared(&proxy);
    destination.sh(&format!(
        "systemd-run --quiet --unit=proxy --socket-property=ListenStream={socket} \
         /lib/systemd/systemd-socket-proxyd /run/libvirt/libvirt-sock"
    ))?;
    let uri = format!("qemu+unix:///system?socket={socket}");
    let memory = format!("unix://{}", destination.shared(&format!("{guest}-{to}.sock")));
    testbed.host(from)?.virsh([
        "migrate",
        "--live",
        "--p2p",
        "--persistent",
        "--undefinesource",
        guest,
        &uri,
        &memory,
    ])?;
    Ok(())
}

#[test]
fn guests_move_between_hosts_and_nothing_is_left() -> Result<()> {
    let started = Instant::now();
    let testbed = Testbed::up(without_agents())?;
    let layout = testbed.layout().clone();
    eprintln!("two hosts: {:.1?}", started.elapsed());
    ensure!(started.elapsed() < Duration::from_secs(15), "starting two hosts took {:?}", started.elapsed());

    let (source, destination) = (testbed.host("node-28")?, testbed.host("node-31")?);
    ensure!(source.snapshot()?.items("TCP listener").count() == 0, "a host listens on TCP");
    ensure!(source.run("hostname", [""; 0])?.trim() == "node-28");
    let started = Instant::now();
    let writer = testbed.start(BootSectorGuest::new("writer").dirtying(50), "node-28")?;
    eprintln!("boot-sector guest: {:.1?}", started.elapsed());
    let started = Instant::now();
    let web = testbed.start(LinuxGuest::new("web-1"), "node-28")?;
    eprintln!("Linux guest: {:.1?}", started.elapsed());
    ensure!(started.elapsed() < Duration::from_secs(15), "starting a guest took {:?}", started.elapsed());
    let user = source.sh("ps -o user:20= -C qemu-system-x86_64 | sort -u")?;
    ensure!(user.trim() == "libvirt-qemu", "QEMU runs as {user}");
    ensure!(testbed.runners("web-1")? == ["node-28"]);

    let before = destination.snapshot()?;
    let pinger = testbed.ping(web.address()?)?;
    thread::sleep(Duration::from_millis(500));
    move_by_libvirt(&testbed, "web-1", "node-28", "node-31")?;
    web.console().wait_for_more(5, SOON)?;
    let pings = pinger.stop()?;
    eprintln!("{pings:?}");
    ensure!(pings.received > 50 && pings.longest_gap < Duration::from_secs(3), "{pings:?}");
    ensure!(testbed.runners("web-1")? == ["node-31"]);
    web.console().assert_steady()?;

    // A look finds what has come: the guest, and the proxy's socket.
    let differences = destination.snapshot()?.since(&before);
    ensure!(differences.iter().any(|d| d.came && d.kind == "domain" && d.item == "web-1"), "{differences:?}");
    destination.snapshot()?.assert_nothing_new(&destination.snapshot()?, |_| false)?;

    writer.console().wait_for_more(5, SOON)?;
    writer.console().assert_memory_intact()?;

    let started = Instant::now();
    testbed.down()?;
    eprintln!("down: {:.1?}", started.elapsed());
    ensure!(remains(&layout).is_empty(), "{:?}", remains(&layout));
    Ok(())
}

#[test]
fn two_testbeds_exist_side_by_side() -> Result<()> {
    let (one, two) = (Testbed::up(without_agents())?, Testbed::up(without_agents())?);
    for testbed in [&one, &two] {
        let answer = testbed.host("node-28")?.run("ping", ["-c", "1", "-W", "2", "192.0.2.11"])?;
        ensure!(answer.contains(" 0% packet loss"), "{answer}");
        testbed.host("node-28")?.write("/srv/shared/who", testbed.name())?;
    }
    let left = one.layout().clone();
    drop(one);
    ensure!(remains(&left).is_empty(), "{:?}", remains(&left));
    // The other has the same names and addresses, and does not notice.
    ensure!(two.host("node-31")?.run("cat", ["/srv/shared/who"])? == two.name());
    two.down()
}

#[test]
fn a_host_without_power_comes_back_with_its_disk() -> Result<()> {
    let testbed = Testbed::up(without_agents())?;
    let host = testbed.host("node-31")?;
    let id = host.run("cat", ["/etc/machine-id"])?;
    host.write("/var/lib/kept", "kept")?;
    host.power_off()?;
    ensure!(!host.is_up() && host.run("true", [""; 0]).is_err());
    host.power_on()?;
    ensure!(host.run("cat", ["/var/lib/kept"])? == "kept" && host.run("cat", ["/etc/machine-id"])? == id);

    let reaches = || {
        Ok::<_, anyhow::Error>(
            testbed.command("ping").args(["-qnc1", "-W1", "192.0.2.11"]).stdout(Stdio::null()).status()?.success(),
        )
    };
    ensure!(reaches()?, "no way to the host");
    host.cut(Link::Underlay)?;
    ensure!(!reaches()?, "a way past the cut cable");
    host.mend(Link::Underlay)?;
    until("the mended cable", SOON, || Ok(reaches()?.then_some(())))?;
    testbed.down()
}

#[test]
fn what_a_killed_process_leaves_is_removed() -> Result<()> {
    let program = env!("CARGO_BIN_EXE_testbed");
    let name = format!("k{}", std::process::id());
    let layout = Layout::new(&name)?;
    for pause in [50, 200] {
        let mut up =
            Command::new(program).args(["up", "--without-agents", "--name", &name]).stdout(Stdio::null()).spawn()?;
        until("a beginning", SOON, || Ok(layout.state_file().exists().then_some(())))?;
        thread::sleep(Duration::from_millis(pause));
        up.kill()?;
        up.wait()?;
        // As each `up` does, for testbeds whose owner is dead. One that was finished just before is asked to go.
        teardown::tear_down_stale()?;
        let status = Command::new(program).args(["down", "--name", &name]).stdout(Stdio::null()).status()?;
        ensure!(status.success() && remains(&layout).is_empty(), "{:?}", remains(&layout));
    }
    Ok(())
}

#[test]
fn a_test_that_panics_leaves_nothing() -> Result<()> {
    let panicked = thread::spawn(|| {
        let testbed = Testbed::up(without_agents()).expect("a testbed");
        std::panic::panic_any(testbed.layout().clone());
    });
    let layout =
        panicked.join().err().and_then(|panic| panic.downcast::<Layout>().ok()).context("it panics on purpose")?;
    ensure!(remains(&layout).is_empty(), "{:?}", remains(&layout));
    ensure!(Path::new("/run/netns").exists());
    Ok(())
}

#[test]
fn a_forger_is_heard_where_nothing_filters() -> Result<()> {
    let testbed = Testbed::up(without_agents())?;
    let forger = testbed.launch(LinuxGuest::new("forger").with_tool(Tool::Forge), "node-28")?;
    let fabric = testbed.capture_from("node-28", Link::Guests)?;
    let neighbour = testbed.host("node-31")?.capture("guests0", Direction::In)?;
    for kind in KINDS {
        for capture in [&fabric, &neighbour] {
            let heard = capture.wait_for(kind, 2, Duration::from_secs(60));
            heard.with_context(|| forger.console().tail())?;
        }
    }
    testbed.down()
}

#[test]
fn a_connection_to_a_guest_that_serves_proves_every_byte() -> Result<()> {
    let testbed = Testbed::up(without_agents())?;
    let server = testbed.start(LinuxGuest::new("server").with_tool(Tool::Serve), "node-28")?;
    for port in stream::PORTS {
        let reader = until("an open port", SOON, || Ok(testbed.connect(server.address()?, port).ok()))?;
        reader.wait_for_more(SOON)?;
        reader.wait_for_more(SOON)?;
        let flow = reader.stop()?;
        ensure!(flow.bytes > 0 && flow.longest_wait < Duration::from_secs(5), "{flow:?}");
    }
    testbed.down()
}

/// Whether the fabric reaches a port that was made on a host for the occasion.
fn assert_reached(testbed: &Testbed, host: &str, port: &str) -> Result<()> {
    testbed.host(host)?.sh(&format!("ip address add 198.51.100.50/24 dev {port}; ip link set {port} up"))?;
    until("an answer", SOON, || Ok(is_reached(testbed)?.then_some(())))
}

fn is_reached(testbed: &Testbed) -> Result<bool> {
    Ok(testbed.command("ping").args(["-qnc1", "-W1", "198.51.100.50"]).output()?.status.success())
}

#[test]
fn a_host_with_open_vswitch_is_on_the_guests_network_in_one_vlan() -> Result<()> {
    let testbed = Testbed::up(without_agents())?;
    let host = testbed.host("node-28")?;
    host.start_open_vswitch("br-int", 10)?;
    host.sh("ovs-vsctl add-port br-int own tag=10 -- set interface own type=internal")?;
    assert_reached(&testbed, "node-28", "own")?;
    host.sh("ovs-vsctl set port own tag=11")?;
    until("silence in another VLAN", SOON, || Ok((!is_reached(&testbed)?).then_some(())))?;
    testbed.down()
}

#[test]
fn a_host_with_a_vxlan_is_on_the_guests_network() -> Result<()> {
    let testbed = Testbed::up(without_agents())?;
    testbed.join_vxlan(5001)?;
    let host = testbed.host("node-28")?;
    let tunnel = "ip link add own type vxlan id 5001 local 192.0.2.10 remote 192.0.2.1 dstport 4789 dev underlay0";
    host.sh(tunnel)?;
    assert_reached(&testbed, "node-28", "own")?;
    testbed.down()
}
