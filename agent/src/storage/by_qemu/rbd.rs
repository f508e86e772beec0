use std::time::Duration;

use bytesize::ByteSize;
use nix::errno::Errno;
use serde::Deserialize;
use vmferry_core::volume::{Found, Rbd};

use super::{FindError, Key, Sighting, common};
use crate::storage::{
    key_file::KeyFile,
    tool::{Failed, Tool},
};

const PROGRAM: &str = "rbd";
const PACKAGE: &str = "ceph-common";

pub(super) async fn find(rbd: &Rbd, key: Key<'_>, limit: Duration) -> Result<Sighting, FindError> {
    let file = match key {
        Some((_, secret)) => Some(KeyFile::new(secret).map_err(|error| unreadable(rbd, format!("its key: {error}")))?),
        None => None,
    };
    let key = key.and_then(|(user, _)| file.as_ref().map(|file| (user, file.path())));
    let tool = Tool::new(PROGRAM).args(arguments(rbd, key.as_ref(), limit)).limit(limit);
    let answer = tool.run().await.map_err(|failed| judge(rbd, failed))?;
    Ok(Sighting { found: read(&answer).map_err(|what| unreadable(rbd, what))?, portal: None })
}

fn arguments(rbd: &Rbd, key: Option<&(&str, String)>, limit: Duration) -> Vec<String> {
    // Ceph waits for minutes. It shall give up by itself: then it says for what it waited.
    let patience = limit.as_secs().saturating_sub(1).max(1);
    let mut arguments = vec!["info".to_owned(), "--format=json".to_owned()];
    for waits in ["client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout"] {
        arguments.push(format!("--{waits}={patience}"));
    }
    // With `=`, so that no name is taken for an option.
    arguments.extend(rbd.configuration.as_ref().map(|path| format!("--conf={path}")));
    if !rbd.monitors.is_empty() {
        arguments.push(format!("--mon_host={}", rbd.monitors.join(",")));
    }
    if let Some((user, file)) = key {
        arguments.extend([format!("--id={user}"), format!("--keyfile={file}")]);
    }
    let (pool, image) = rbd.image.split_once('/').unwrap_or(("rbd", &rbd.image));
    arguments.push(format!("--pool={pool}"));
    match image.split_once('/') {
        Some((namespace, image)) => arguments.extend([format!("--namespace={namespace}"), format!("--image={image}")]),
        None => arguments.push(format!("--image={image}")),
    }
    arguments.extend(rbd.snapshot.as_ref().map(|snapshot| format!("--snap={snapshot}")));
    arguments
}

#[derive(Deserialize)]
struct Info {
    size: u64,
    /// Images of the first format have none.
    #[serde(default)]
    id: String,
    block_name_prefix: String,
}

fn read(answer: &str) -> Result<Found, String> {
    let info: Info = serde_json::from_str(answer).map_err(|error| error.to_string())?;
    let identity = if info.id.is_empty() { info.block_name_prefix } else { info.id };
    if identity.is_empty() {
        return Err("the image has no id".to_owned());
    }
    Ok(Found { size: ByteSize::b(info.size), identity })
}

/// `rbd` exits with an errno.
fn judge(rbd: &Rbd, failed: Failed) -> FindError {
    let volume = rbd.to_string();
    let at = if rbd.monitors.is_empty() {
        format!("the monitors of {}", rbd.configuration.as_deref().unwrap_or("/etc/ceph/ceph.conf"))
    } else {
        rbd.monitors.join(", ")
    };
    if let Some(error) = common(&failed, &volume, &at, PROGRAM, PACKAGE) {
        return error;
    }
    let why = failed.how.clone();
    match failed.code.map(Errno::from_raw) {
        // It does not find the monitors' names, which is no answer of a cluster.
        Some(Errno::ENOENT) if why.contains("cannot identify monitors") => FindError::Unreachable { volume, at, why },
        Some(Errno::ENOENT) => FindError::Gone { volume, why },
        Some(Errno::ETIMEDOUT | Errno::ECONNREFUSED | Errno::EHOSTUNREACH) => {
            FindError::Unreachable { volume, at, why }
        }
        // 1 is also what it says when it does not understand us.
        Some(Errno::EPERM) if !why.contains("(1)") => FindError::Failed(failed),
        // EOPNOTSUPP: the cluster wants a key, and there is none.
        Some(Errno::EACCES | Errno::EPERM | Errno::EOPNOTSUPP) => {
            let user = rbd.login.as_ref().map_or("nobody", |login| &login.user).to_owned();
            FindError::Denied { volume, user, why }
        }
        _ => FindError::Failed(failed),
    }
}

fn unreadable(rbd: &Rbd, what: String) -> FindError {
    FindError::Unreadable { program: PROGRAM, volume: rbd.to_string(), what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmferry_core::volume::{Login, SecretName};

    fn image() -> Rbd {
        Rbd {
            monitors: vec!["192.0.2.1:6789".into(), "[2001:db8::1]:3300".into()],
            configuration: None,
            image: "vms/web".into(),
            snapshot: None,
            login: Some(Login { user: "web".into(), secret: SecretName::Usage("ceph".into()) }),
        }
    }

    #[test]
    fn what_is_asked_has_no_room_for_a_second_meaning() {
        let key = ("web", "/proc/1/fd/3".to_owned());
        let asked = arguments(&image(), Some(&key), Duration::from_secs(10));
        let waits = ["--client_mount_timeout=9", "--rados_mon_op_timeout=9", "--rados_osd_op_timeout=9"];
        let names = ["--id=web", "--keyfile=/proc/1/fd/3", "--pool=vms", "--image=web"];
        assert_eq!(asked[2..5], waits);
        assert_eq!(asked[5], "--mon_host=192.0.2.1:6789,[2001:db8::1]:3300");
        assert_eq!(asked[6..], names);
        let other = Rbd {
            monitors: vec![],
            configuration: Some("/etc/ceph/b.conf".into()),
            image: "vms/ns/--help".into(),
            snapshot: Some("nightly".into()),
            login: None,
        };
        let asked = arguments(&other, None, Duration::from_millis(10));
        assert_eq!(asked[4], "--rados_osd_op_timeout=1");
        assert_eq!(
            asked[5..],
            ["--conf=/etc/ceph/b.conf", "--pool=vms", "--namespace=ns", "--image=--help", "--snap=nightly"]
        );
    }

    #[test]
    fn an_image_is_known_by_its_id() {
        // Ceph 16.2.15, Debian 12.
        let answer = r#"{"name":"web","id":"1016ea72d720","size":67108864,"objects":16,"order":22,"object_size":4194304,"snapshot_count":1,"block_name_prefix":"rbd_data.1016ea72d720","format":2,"features":["layering","exclusive-lock","object-map","fast-diff","deep-flatten"],"op_features":[],"flags":[],"create_timestamp":"Sun Nov 22 09:59:54 2026","access_timestamp":"Sun Nov 22 09:59:54 2026","modify_timestamp":"Sun Nov 22 09:59:54 2026"}"#;
        assert_eq!(read(answer), Ok(Found { size: ByteSize::mib(64), identity: "1016ea72d720".into() }));
        let first_format = answer.replace(r#""id":"1016ea72d720","#, "").replace("rbd_data.1016ea72d720", "rb.0.1016");
        assert_eq!(read(&first_format).map(|found| found.identity), Ok("rb.0.1016".into()));
        for nonsense in [
            "",
            "{}",
            "[]",
            &answer.replace("67108864", "-1"),
            &answer.replace("1016ea72d720", "").replace("rbd_data.", ""),
        ] {
            assert!(read(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn what_rbd_fails_with_says_what_is_wrong() {
        let judged = |code: Option<i32>, how: &str| {
            judge(&image(), Failed { command: "rbd info".into(), code, how: how.into() })
        };
        // Each as rbd said it, asked of a cluster of one monitor.
        for gone in [
            "rbd: error opening image gone: (2) No such file or directory",
            "rbd: error opening pool 'gone': (2) No such file or directory",
            "error setting snapshot context: (2) No such file or directory",
        ] {
            assert!(matches!(judged(Some(2), gone), FindError::Gone { .. }), "{gone}");
        }
        for (code, unreachable) in [
            (Some(110), "rbd: couldn't connect to the cluster!"),
            (Some(110), "rbd: error opening image web: (110) Connection timed out"),
            (Some(2), "-1 monclient: get_monmap_and_config cannot identify monitors to contact"),
            (None, "gave no answer within 10s and was killed"),
        ] {
            let error = judged(code, unreachable);
            assert!(error.is_transient(), "{error:?}");
            assert!(error.to_string().contains("192.0.2.1:6789, [2001:db8::1]:3300"), "{error}");
        }
        for (code, denied) in [
            (13, "rbd: couldn't connect to the cluster!"),
            (95, "rbd: couldn't connect to the cluster!"),
            (1, "rbd: error opening image web: (1) Operation not permitted"),
        ] {
            let error = judged(Some(code), denied);
            assert!(matches!(&error, FindError::Denied { user, .. } if user == "web"), "{error:?}");
        }
        let configuration = "global_init: unable to open config file from search list /nonexistent";
        assert!(matches!(judged(Some(1), configuration), FindError::Failed(_)));
        let missing = judged(None, "cannot be run: No such file or directory (os error 2)");
        assert!(missing.to_string().contains("apt-get install ceph-common"), "{missing}");
    }
}
