//! What a host must know to open a volume: a cephx key, or a CHAP password.

use std::{fmt, os::unix::fs::PermissionsExt as _};

use anyhow::{Context, Result};

use crate::{host::Host, process::run_with_input};

const CONFIGURATION: &str = "/etc/vmferry/agent.toml";
const DIRECTORY: &str = "/etc/vmferry/secrets";

/// What kind of storage a secret opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A cephx key.
    Ceph,
    /// A CHAP password.
    Iscsi,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ceph => "ceph",
            Self::Iscsi => "iscsi",
        })
    }
}

/// A secret. All fields may be changed, to make one that the storage must refuse, say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// libvirt's name for it.
    pub uuid: String,
    /// Its other name: of the client, or of the target.
    pub usage: String,
    /// What it opens.
    pub kind: Kind,
    /// Who has it: `libvirt` for `client.libvirt`, or the CHAP user.
    pub user: String,
    /// The base64 key as `ceph auth get-key` prints it, or the password.
    pub value: String,
}

impl Secret {
    /// The element that refers to it in a disk.
    pub fn auth(&self) -> String {
        let Self { uuid, kind, user, .. } = self;
        format!("<auth username='{user}'><secret type='{kind}' uuid='{uuid}'/></auth>")
    }
}

impl Host {
    /// Gives libvirt the secret, so that a guest can be started here. libvirt shows it to nobody.
    pub fn define_secret(&self, secret: &Secret) -> Result<()> {
        self.give_libvirt(secret, "yes")
    }

    /// The same, and libvirt shows it to whoever asks, as the manuals of Ceph and OpenStack have it.
    pub fn define_readable_secret(&self, secret: &Secret) -> Result<()> {
        self.give_libvirt(secret, "no")
    }

    fn give_libvirt(&self, secret: &Secret, private: &str) -> Result<()> {
        let Secret { uuid, usage, kind, value, .. } = secret;
        let name = match kind {
            Kind::Ceph => format!("<name>{usage}</name>"),
            Kind::Iscsi => format!("<target>{usage}</target>"),
        };
        let xml = format!(
            "<secret ephemeral='no' private='{private}'><uuid>{uuid}</uuid><usage type='{kind}'>{name}</usage></secret>"
        );
        let virsh = |arguments: &[&str], input: &str| {
            let mut command = self.command("virsh")?;
            command.args(["-q", "-c", "qemu:///system"]).args(arguments);
            run_with_input(&mut command, input).with_context(|| format!("on {}", self.name()))
        };
        virsh(&["secret-define", "/dev/stdin"], &xml)?;
        // libvirt keeps bytes: a cephx key is base64 for some, a password is as it is.
        let plain: &[&str] = if *kind == Kind::Iscsi { &["--plain"] } else { &[] };
        virsh(&[&["secret-set-value", uuid, "--file", "/dev/stdin"], plain].concat(), value).map(drop)
    }

    /// Takes it from libvirt again.
    pub fn undefine_secret(&self, secret: &Secret) -> Result<()> {
        self.virsh(["secret-undefine", &secret.uuid]).map(drop)
    }

    /// Gives the agent the secret: in a file of its own, named in its configuration. The agent is restarted.
    pub fn give_secret(&self, secret: &Secret) -> Result<()> {
        let Secret { uuid, usage, kind, value, .. } = secret;
        let file = format!("{DIRECTORY}/{uuid}");
        self.write(&file, "")?;
        std::fs::set_permissions(self.path(&file)?, std::fs::Permissions::from_mode(0o600))?;
        self.write(&file, value)?;
        let path = self.path(CONFIGURATION)?;
        let configuration = std::fs::read_to_string(&path).context("a host without an agent has nobody to tell")?;
        // A second time: the value has changed.
        if !configuration.contains(&file) {
            let entry =
                format!("\n[[secret]]\nuuid = \"{uuid}\"\nusage = \"{usage}\"\nkind = \"{kind}\"\nfile = \"{file}\"\n");
            std::fs::write(&path, configuration + &entry)?;
        }
        self.agent().restart()
    }
}
