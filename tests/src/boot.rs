//! Starting a host: its writable layer, then systemd-nspawn in a mount namespace and a cgroup of its own.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixDatagram,
        process::ExitStatusExt as _,
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    binaries::Binaries,
    layout::{LOCAL, Layout, SHARED, netns},
    process::Process,
    state::HostState,
    tree::Tree,
    wait,
};

/// Boots take about a second; more than this on the slowest machine is a fault.
const TIMEOUT: Duration = Duration::from_secs(60);
const UNIT: &str = include_str!("../../packaging/systemd/vmferry-agent.service");

/// The overlay is mounted in a mount namespace that nobody else has: it goes with the last process, whatever happens.
/// Both arguments before nspawn's own: the host's directory, and the name of its cgroup.
const START: &str = r#"
set -e
dir=$1 tree=$2 name=$3; shift 3
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
# Two systemds in one cgroup would kill each other's services. cgroup2, alone or beside version 1 (name=systemd).
for top in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
    if [ -e "$top/cgroup.procs" ]; then
        mkdir -p "$top/$name"
        echo $$ >"$top/$name/cgroup.procs"
    fi
done
exec systemd-nspawn "$@"
"#;

/// A host's two processes that others hang on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Booted {
    pub(crate) supervisor: Process,
    pub(crate) init: Process,
}

/// Writes what makes this host different from the tree. Before its first boot only.
pub(crate) fn prepare(layout: &Layout, host: &HostState, others: &[HostState]) -> Result<()> {
    let directory = layout.host_dir(&host.name);
    for name in ["upper/etc", "work", "root", "local"] {
        fs::create_dir_all(directory.join(name))?;
    }
    // World-writable like /tmp: tests put images there, and libvirt-qemu has another uid in another tree.
    fs::set_permissions(directory.join("local"), fs::Permissions::from_mode(0o1777))?;
    let etc = directory.join("upper/etc");
    fs::write(etc.join("hostname"), format!("{}\n", host.name))?;
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    fs::write(etc.join("machine-id"), uuid.replace('-', ""))?;
    let initiator = etc.join("iscsi/initiatorname.iscsi");
    fs::create_dir_all(etc.join("iscsi"))?;
    fs::write(initiator, format!("InitiatorName=iqn.2026-11.example.vmferry:{}\n", host.name))?;
    let names: String = others.iter().map(|host| format!("{} {}\n", host.address, host.name)).collect();
    fs::write(etc.join("hosts"), format!("127.0.0.1 localhost\n::1 localhost\n{names}"))?;
    Ok(())
}

/// Installs the shipped unit, enabled, with a configuration and a certificate for this host.
pub(crate) fn install_agent(layout: &Layout, host: &HostState, extra_configuration: &str) -> Result<()> {
    let upper = layout.upper(&host.name);
    let units = upper.join("usr/lib/systemd/system");
    let wants = upper.join("etc/systemd/system/multi-user.target.wants");
    let (etc, pki) = (upper.join("etc/vmferry"), upper.join("etc/vmferry/pki"));
    for directory in [&units, &wants, &pki] {
        fs::create_dir_all(directory)?;
    }
    fs::write(units.join("vmferry-agent.service"), UNIT)?;
    symlink("/usr/lib/systemd/system/vmferry-agent.service", wants.join("vmferry-agent.service"))?;
    let configuration = format!(
        "name = \"{}\"\nzone = \"{}\"\nlisten = \"{}:7443\"\n{extra_configuration}\n\
         [tls]\nca = \"/etc/vmferry/pki/ca.pem\"\ncertificate = \"/etc/vmferry/pki/cert.pem\"\n\
         key = \"/etc/vmferry/pki/key.pem\"\n",
        host.name, host.zone, host.address
    );
    fs::write(etc.join("agent.toml"), configuration)?;
    let issued = layout.pki().join(format!("agent-{}", host.name));
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        fs::copy(issued.join(file), pki.join(file))
            .with_context(|| format!("no {file} was issued to {}", host.name))?;
    }
    Ok(())
}

/// Boots the host and waits until its systemd has started everything, the agent included.
pub(crate) fn boot(layout: &Layout, host: &HostState, tree: &Tree, binaries: Option<&Binaries>) -> Result<Booted> {
    let log_path = layout.boot_log(&host.name);
    let log = File::options().create(true).append(true).open(&log_path)?;
    let socket_path = layout.run_dir().join(format!("{}.notify", host.name));
    let _ = fs::remove_file(&socket_path);
    let socket = UnixDatagram::bind(&socket_path).with_context(|| format!("cannot bind {}", socket_path.display()))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;

    let mut command = command(layout, host, tree, binaries);
    command.env("NOTIFY_SOCKET", &socket_path).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("cannot start systemd-nspawn")?;
    let supervisor = i32::try_from(child.id()).ok().and_then(Process::find).context("the host died at once")?;
    let ready = wait_ready(&socket, &mut child);
    // Somebody has to reap it, and `down` may be another process.
    thread::spawn(move || child.wait());
    let _ = fs::remove_file(&socket_path);
    match ready {
        Ok(init) => Ok(Booted { supervisor, init }),
        Err(error) => {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            Err(error.context(format!("host {} did not boot; its console: {}", host.name, log.trim())))
        }
    }
}

fn command(layout: &Layout, host: &HostState, tree: &Tree, binaries: Option<&Binaries>) -> Command {
    let machine = layout.machine(&host.name);
    let directory = layout.host_dir(&host.name);
    let mut command = Command::new("setsid");
    command.args(["unshare", "--mount", "--propagation", "slave", "sh", "-c", START, "sh"]);
    command.arg(&directory).arg(tree.root()).arg(&machine);
    command
        .args(["--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe", "--notify-ready=yes"])
        .args(["--link-journal=no", "--resolv-conf=off", "--timezone=off", "--capability=all", "--bind=/dev/net/tun"])
        .arg(format!("--machine={machine}"))
        .arg(format!("--hostname={}", host.name))
        .arg(format!("--network-namespace-path={}", netns(&machine).display()))
        .arg(format!("--directory={}", directory.join("root").display()))
        .arg(format!("--bind={}:{SHARED}", layout.shared().display()))
        .arg(format!("--bind={}:{LOCAL}", layout.local(&host.name).display()));
    if let Some(binaries) = binaries {
        command.arg(format!("--bind-ro={}:/usr/sbin/vmferry-agent", binaries.agent.display()));
        command.arg(format!("--bind-ro={}:/usr/bin/vmferry", binaries.vmferry.display()));
    }
    // libvirt and agents set things below /proc/sys/net.
    command.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network");
    command
}

/// Reads nspawn's notifications: the leader's pid first, then that the container is up.
fn wait_ready(socket: &UnixDatagram, child: &mut Child) -> Result<Process> {
    let deadline = Instant::now() + TIMEOUT;
    let mut init = None;
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let message = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                for line in message.lines() {
                    match line.split_once('=') {
                        Some(("X_NSPAWN_LEADER_PID", pid)) => init = pid.parse().ok().and_then(Process::find),
                        Some(("READY", "1")) => return init.context("nspawn did not say which process is its init"),
                        _ => {}
                    }
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("cannot hear from nspawn"),
        }
        if let Some(status) = child.try_wait()? {
            bail!("nspawn ended: {}", describe(status));
        }
    }
    bail!("not ready after {TIMEOUT:?}")
}

fn describe(status: ExitStatus) -> String {
    status.signal().map_or_else(|| status.to_string(), |signal| format!("killed by signal {signal}"))
}

/// Removes the host's cgroups, deepest first, once its processes are dead: one that is about to be still counts.
pub(crate) fn remove_cgroups(machine: &str) -> Result<()> {
    fn remove(directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(directory);
    }
    for top in ["", "unified", "systemd"] {
        let directory = Path::new("/sys/fs/cgroup").join(top).join(machine);
        wait::until(&format!("the end of {}", directory.display()), wait::SOON, || {
            remove(&directory);
            Ok((!directory.exists()).then_some(()))
        })?;
    }
    Ok(())
}
