//! A hypervisor with a kernel of its own, on the underlay of a testbed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Child,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{Image, console_end, write_program};
use crate::{
    Testbed,
    binaries::Binaries,
    guest::{self, LinuxGuest},
    process::{run, run_with_input},
    storage::Secret,
    wait,
};

const INIT: &str = include_str!("../../kernel/host.sh");
const SHELL: &str = include_str!("../../kernel/shell.sh");
const SHELL_UNIT: &str = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sh /mnt/shell.sh\n";
const UNIT: &str = include_str!("../../../packaging/systemd/vmferry-agent.service");
/// `eth1` and up, all on the guests' network of the testbed.
const GUEST_LINKS: u8 = 3;
/// Two boot in less than a minute where nothing else runs.
const BOOT: Duration = Duration::from_secs(480);
/// The longest that a script may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A host: its own Linux with systemd, libvirt, open-iscsi, Ceph's client and the agent. It ends with the value, or with its
/// testbed.
#[derive(Debug)]
pub struct KernelHost {
    name: String,
    address: Ipv4Addr,
    directory: PathBuf,
    _machine: Machine,
    shell: Mutex<BufReader<UnixStream>>,
}

/// Ends with the value.
#[derive(Debug)]
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl KernelHost {
    /// Starts one; [`KernelHost::wait_until_up`] is for later, so that several boot at once. Its address on the underlay, by `eth0`, must
    /// be nobody's, and its last number below 256. Its agent has this configuration besides what every agent needs, and these secrets.
    pub fn start(
        testbed: &Testbed,
        image: &Image,
        name: &str,
        address: Ipv4Addr,
        configuration: &str,
        secrets: &[&Secret],
    ) -> Result<Self> {
        let directory = testbed.layout().disk_dir().join("machines").join(name);
        let contents = directory.join("contents");
        fs::create_dir_all(contents.join("etc"))?;
        write_program(&contents.join("init.sh"), INIT)?;
        write_program(&contents.join("shell.sh"), SHELL)?;
        fs::write(contents.join("address"), address.to_string())?;
        fs::copy(Binaries::locate()?.agent, contents.join("vmferry-agent"))?;
        write_program(&contents.join("guest-tool"), guest::tool()?)?;
        fs::create_dir_all(contents.join("shared"))?;
        LinuxGuest::write_boot_files(&image.tree, &contents.join("shared"))?;
        write_system(&contents.join("etc"), name)?;
        let configuration =
            format!("name = \"{name}\"\nzone = \"kernel\"\nlisten = \"{address}:7443\"\n{configuration}");
        write_agent(testbed, &contents.join("etc/vmferry"), name, address, configuration, secrets)?;

        let last = address.octets()[3];
        let (mut lines, mut cards) = (String::new(), Vec::new());
        for number in 0..=GUEST_LINKS {
            let (tap, bridge) = (format!("k{number}-{name}"), if number == 0 { "underlay" } else { "guests" });
            lines += &format!("tuntap add dev {tap} mode tap\nlink set {tap} master {bridge} up\n");
            cards.push(format!("-netdev tap,id=eth{number},ifname={tap},script=no,downscript=no"));
            let mac = format!("52:54:00:00:{number:02x}:{last:02x}");
            cards.push(format!("-device virtio-net-pci,netdev=eth{number},romfile=,mac={mac}"));
        }
        run_with_input(testbed.command("ip").args(["-batch", "-"]), &lines)?;
        let arguments = [
            "-m 1536 -device virtio-serial-pci -device virtserialport,chardev=shell,nr=1".to_owned(),
            "-chardev socket,id=shell,path=/srv/local/shell,server=on,wait=off".to_owned(),
            format!("-uuid 00000000-0000-4000-8000-0000000000{last:02x}"),
        ];
        let arguments = arguments.iter().chain(&cards).flat_map(|arguments| arguments.split(' '));
        let mut command = image.machine(testbed.command("setsid"), &directory, &contents, arguments)?;
        let mut machine = Machine(command.spawn().with_context(|| format!("cannot start {name}"))?);
        let socket = wait::until("the shell's port", Duration::from_secs(20), || {
            ensure!(machine.0.try_wait()?.is_none(), "the machine of {name} ended at once");
            Ok(UnixStream::connect(directory.join("shell")).ok())
        })?;
        socket.set_read_timeout(Some(BOOT))?;
        let shell = Mutex::new(BufReader::new(socket));
        Ok(Self { name: name.to_owned(), address, directory, _machine: machine, shell })
    }

    /// Waits until systemd has started everything, and its agent is ready.
    pub fn wait_until_up(&self) -> Result<()> {
        // libvirt's first answer takes it many starts of QEMU, longer than an agent waits.
        let up = self.sh("systemctl is-system-running --wait || systemctl --failed --no-legend
            systemctl is-active vmferry-agent || { journalctl --no-pager -u vmferry-agent; exit 1; }
            virsh -q -c qemu:///system capabilities >/dev/null");
        let up = up.map(drop).with_context(|| format!("its console ends:\n{}", self.console()));
        self.lock().get_ref().set_read_timeout(Some(PATIENCE))?;
        up
    }

    /// Its name: in its certificate, in the inventory, and its hostname.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the underlay.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Runs a shell script on it as root, and returns all that it said. One at a time. It needs no network.
    pub fn sh(&self, script: &str) -> Result<String> {
        let what = || format!("on {}: {script}", self.name);
        let encoded = run_with_input(std::process::Command::new("base64").args(["-w", "0"]), script)?;
        let mut shell = self.lock();
        shell.get_mut().write_all(format!("{encoded}\n").as_bytes()).with_context(what)?;
        let mut answer = String::new();
        shell.read_line(&mut answer).with_context(what)?;
        drop(shell);
        let Some((status, encoded)) = answer.trim_end_matches('\n').split_once(' ') else {
            bail!("{} has ended; its console ends:\n{}", self.name, console_end(&self.directory))
        };
        let output = run_with_input(std::process::Command::new("base64").args(["-d"]), encoded)?;
        ensure!(status == "0", "{}: status {status}: {output}", what());
        Ok(output)
    }

    /// `virsh -q` on its system connection.
    pub fn virsh(&self, arguments: &str) -> Result<String> {
        self.sh(&format!("virsh -q -c qemu:///system {arguments}"))
    }

    /// Writes a file on it.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        self.sh(&format!("cat >{path} <<'END'\n{text}\nEND")).map(drop)
    }

    /// The end of its console: a machine that is gone has nothing else to say.
    pub fn console(&self) -> String {
        console_end(&self.directory)
    }

    /// What its agent has logged since it booted.
    pub fn agent_log(&self) -> Result<String> {
        self.sh("journalctl --no-pager --output=short-precise --unit vmferry-agent")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BufReader<UnixStream>> {
        self.shell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes this machine different from another.
fn write_system(etc: &Path, name: &str) -> Result<()> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    fs::write(etc.join("machine-id"), uuid.replace('-', ""))?;
    fs::write(etc.join("hostname"), format!("{name}\n"))?;
    fs::write(etc.join("hosts"), format!("127.0.0.1 localhost {name}\n::1 localhost\n"))?;
    fs::create_dir(etc.join("iscsi"))?;
    let initiator = format!("InitiatorName=iqn.2026-11.example.vmferry:{name}\n");
    fs::write(etc.join("iscsi/initiatorname.iscsi"), initiator)?;
    let units = etc.join("systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    fs::write(units.join("vmferry-agent.service"), UNIT)?;
    fs::write(units.join("shell.service"), SHELL_UNIT)?;
    for unit in ["vmferry-agent.service", "shell.service"] {
        symlink(format!("/etc/systemd/system/{unit}"), wants.join(unit))?;
    }
    Ok(())
}

/// The agent's configuration, a certificate of the testbed's authority, and its secrets.
fn write_agent(
    testbed: &Testbed,
    etc: &Path,
    name: &str,
    address: Ipv4Addr,
    mut configuration: String,
    secrets: &[&Secret],
) -> Result<()> {
    let authority = testbed.layout().pki();
    let address = address.to_string();
    run(testbed.vmferry(["pki", "issue", "agent", name, "--address", &address, "--directory"])?.arg(&authority))?;
    let (pki, kept) = (etc.join("pki"), etc.join("secrets"));
    fs::create_dir_all(&pki)?;
    fs::create_dir_all(&kept)?;
    configuration += "\n[tls]\n";
    for (key, file) in [("ca", "ca.pem"), ("certificate", "cert.pem"), ("key", "key.pem")] {
        fs::copy(authority.join(format!("agent-{name}")).join(file), pki.join(file))?;
        configuration += &format!("{key} = \"/etc/vmferry/pki/{file}\"\n");
    }
    for Secret { uuid, usage, kind, value, .. } in secrets {
        fs::write(kept.join(uuid), value)?;
        fs::set_permissions(kept.join(uuid), fs::Permissions::from_mode(0o600))?;
        configuration += &format!(
            "\n[[secret]]\nuuid = \"{uuid}\"\nusage = \"{usage}\"\nkind = \"{kind}\"\nfile = \"/etc/vmferry/secrets/{uuid}\"\n"
        );
    }
    Ok(fs::write(etc.join("agent.toml"), configuration)?)
}
