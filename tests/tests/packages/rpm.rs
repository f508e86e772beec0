//! The .rpm in a root of its own: installed, verified, and removed by rpm itself. Its scripts are read, not run: there is no system of
//! that kind.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use vmferry_tests::process::{run, run_with_input};

use crate::rig::{Version, package};

const PACKAGES: [&str; 2] = ["vmferry", "vmferry-agent"];

fn rpm(root: &Path, arguments: &[&str]) -> Result<String> {
    run(Command::new("rpm").arg("--root").arg(root).args(arguments))
}

#[test]
#[ignore = "needs packages: make test-packages"]
fn an_rpm_is_installed_whole_and_removed_without_a_trace() -> Result<()> {
    let root = tempfile::tempdir()?;
    let root = root.path();
    rpm(root, &["--initdb"])?;
    let files = PACKAGES.map(|name| package(name, Version::This, ".rpm"));
    for file in files {
        // What they depend on is another distribution's, and so is what runs scripts.
        rpm(root, &["--install", "--nodeps", "--noscripts", "--ignorearch", &file?.display().to_string()])?;
    }
    for name in PACKAGES {
        let verified = rpm(root, &["--verify", "--nodeps", name])?;
        ensure!(verified.is_empty(), "{name}: {verified}");
    }
    for file in [
        "usr/sbin/vmferry-agent",
        "usr/bin/vmferry",
        "usr/lib/systemd/system/vmferry-agent.service",
        "usr/lib/systemd/system/vmferry-coordinator.service",
        "usr/lib/tmpfiles.d/vmferry-agent.conf",
        "usr/lib/sysctl.d/60-vmferry.conf",
        "usr/share/man/man1/vmferry-migrate.1.gz",
        "usr/share/man/man8/vmferry-agent.8.gz",
        "usr/share/bash-completion/completions/vmferry",
        "usr/share/zsh/site-functions/_vmferry",
        "usr/share/fish/vendor_completions.d/vmferry.fish",
        "usr/share/licenses/vmferry/LICENSE",
        "usr/share/vmferry/proto/vmferry/agent/v1/migration.proto",
    ] {
        ensure!(root.join(file).is_file(), "{file} is missing");
    }
    let version = run(Command::new(root.join("usr/bin/vmferry")).arg("version"))?;
    ensure!(version.trim() == concat!("vmferry ", env!("CARGO_PKG_VERSION")), "{version}");

    // Written by its administrator, it is neither overwritten nor removed.
    ensure!(rpm(root, &["--query", "--configfiles", "vmferry-agent"])?.trim() == "/etc/vmferry/agent.toml");
    let requires = rpm(root, &["--query", "--requires", "vmferry-agent"])?;
    ensure!(requires.contains("libvirt.so.0") && !requires.contains("librbd"), "{requires}");
    let configuration = root.join("etc/vmferry/agent.toml");
    std::fs::write(&configuration, "name = \"node-28\"\n")?;

    rpm(root, &["--erase", "--noscripts", PACKAGES[0], PACKAGES[1]])?;
    let left = run(Command::new("find").arg(root).args(["-path", "*vmferry*", "-type", "f"]))?;
    ensure!(left.trim() == format!("{}.rpmsave", configuration.display()), "{left}");
    Ok(())
}

#[test]
#[ignore = "needs packages: make test-packages"]
fn an_rpms_scripts_are_shells_and_do_what_the_others_do() -> Result<()> {
    let file = package("vmferry-agent", Version::This, ".rpm")?.display().to_string();
    let tags = [("POSTIN", "preset"), ("PREUN", "--open-migrations"), ("POSTUN", "try-restart")];
    for (tag, words) in tags {
        let query = format!("--queryformat=%{{{tag}}}");
        let script = run(Command::new("rpm").args(["--query", &query, "--package", &file]))?;
        ensure!(script.contains(words), "{tag}: no `{words}` in {script}");
        run_with_input(Command::new("sh").arg("-n"), &script)?;
    }
    Ok(())
}
