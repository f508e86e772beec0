//! With a real etcd.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, timeout};
use vmferry_core::migration::Endpoint;
use vmferry_registry::{DEFAULT_PREFIX, Error, LEASE, Registration, Registry, Settings, User};
use vmferry_tests::etcd::Etcd;

/// Far longer than it takes.
const SOON: Duration = Duration::from_secs(30);

fn settings(etcd: &Etcd) -> Settings {
    Settings { endpoints: vec![etcd.url().into()], prefix: DEFAULT_PREFIX.into(), tls: None, user: None }
}

fn host(name: &str, address: &str) -> Endpoint {
    Endpoint { host: name.parse().expect("a name"), address: address.into() }
}

async fn names(registry: &Registry) -> Result<Vec<String>> {
    Ok(registry.hosts().await?.0.iter().map(|host| format!("{} {}", host.host, host.address)).collect())
}

/// Waits until it is told that something is wrong.
async fn wrong(registration: &mut Registration) -> Result<Error> {
    timeout(SOON, registration.keep()).await.context("nothing is wrong")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_there_as_long_as_it_gives_signs_of_life_and_gone_after_its_lease() -> Result<()> {
    let etcd = Etcd::on_loopback()?;
    let registry = Registry::connect(&settings(&etcd)).await?;
    let mut changes = registry.changes().await?;
    let ours = host("node-28", "192.0.2.10:7443");
    let mut registration = registry.register(&ours).await?;
    timeout(SOON, changes.next()).await??;
    ensure!(names(&registry).await? == ["node-28 192.0.2.10:7443"]);
    ensure!(etcd.pairs("/")? == [("/vmferry/hosts/node-28".into(), r#"{"address":"192.0.2.10:7443"}"#.into())]);

    let silent = registry.register(&host("node-31", "192.0.2.11:7443")).await?;
    timeout(SOON, changes.next()).await??;
    drop(silent);
    let since = Instant::now();
    tokio::select! {
        error = registration.keep() => anyhow::bail!("it is not kept: {error}"),
        gone = timeout(SOON, changes.next()) => gone??,
    }
    ensure!(names(&registry).await? == ["node-28 192.0.2.10:7443"], "the other one is gone");
    ensure!(since.elapsed() >= LEASE && since.elapsed() < LEASE * 2, "{:?}", since.elapsed());
    registration.revoke().await?;
    ensure!(names(&registry).await?.is_empty(), "taken off");

    registry.register(&ours).await?.revoke().await?;
    ensure!(names(&registry).await?.is_empty(), "taken off");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_killed_takes_up_its_name_again_and_nobody_takes_anothers() -> Result<()> {
    let etcd = Etcd::on_loopback()?;
    let registry = Registry::connect(&settings(&etcd)).await?;
    let ours = host("node-28", "192.0.2.10:7443");
    let _before = registry.register(&ours).await?;
    let mut now = registry.register(&ours).await.context("the same host again")?;
    let other = registry.register(&host("node-28", "192.0.2.99:7443")).await.expect_err("another host");
    ensure!(matches!(&other, Error::Taken { key, found } if key.ends_with("node-28") && found.contains("192.0.2.10")));

    etcd.ctl(&["put", "/vmferry/hosts/node-28", r#"{"address":"192.0.2.66:7443"}"#])?;
    ensure!(matches!(wrong(&mut now).await?, Error::Taken { .. }));
    etcd.ctl(&["del", "/vmferry/hosts/node-28"])?;
    let mut again = registry.register(&ours).await?;
    etcd.ctl(&["del", "/vmferry/hosts/node-28"])?;
    ensure!(matches!(wrong(&mut again).await?, Error::Lost(_)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_name_no_host_are_told_and_cost_no_other() -> Result<()> {
    let etcd = Etcd::on_loopback()?;
    let registry = Registry::connect(&settings(&etcd)).await?;
    registry.register(&host("node-28", "192.0.2.10:7443")).await?;
    for (key, value) in [("a", "gibberish"), ("b", r#"{"port":7443}"#), ("c d", r#"{"address":"192.0.2.1:1"}"#)] {
        etcd.ctl(&["put", &format!("/vmferry/hosts/{key}"), value])?;
    }
    etcd.ctl(&["put", "/vmferry/other", "not ours"])?;
    let (hosts, skipped) = registry.hosts().await?;
    ensure!(hosts.len() == 1, "{hosts:?}");
    let keys: Vec<_> = skipped.iter().map(|skipped| skipped.key.as_str()).collect();
    ensure!(keys == ["/vmferry/hosts/a", "/vmferry/hosts/b", "/vmferry/hosts/c d"], "{skipped:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_goes_is_noticed_at_once_and_any_member_that_answers_is_enough() -> Result<()> {
    let mut etcd = Etcd::on_loopback()?;
    let dead = Etcd::on_loopback()?.url().to_owned();
    let mut both = settings(&etcd);
    both.endpoints.insert(0, dead.clone());
    let registry = Registry::connect(&both).await?;
    let mut registration = registry.register(&host("node-28", "192.0.2.10:7443")).await?;
    etcd.stop()?;
    let wrong = wrong(&mut registration).await?;
    ensure!(matches!(wrong, Error::Unreachable(_) | Error::Silent(_) | Error::Refused(_)), "{wrong}");
    let error = Registry::connect(&both).await.expect_err("nobody").to_string();
    ensure!(error.contains(&dead) && error.contains(etcd.url()) && error.contains("onnection refused"), "{error}");
    etcd.start()?;
    Registry::connect(&both).await?.register(&host("node-28", "192.0.2.10:7443")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_etcd_are_asked_for_their_password() -> Result<()> {
    let etcd = Etcd::on_loopback()?;
    for arguments in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "vmferry"],
        &["role", "grant-permission", "vmferry", "--prefix=true", "readwrite", DEFAULT_PREFIX],
        &["user", "add", "agent:word"],
        &["user", "grant-role", "agent", "vmferry"],
        &["auth", "enable"],
    ] {
        etcd.ctl(arguments)?;
    }
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("password");
    let mut settings = settings(&etcd);
    let nobody = Registry::connect(&settings).await?.hosts().await.expect_err("nobody");
    ensure!(matches!(nobody, Error::Refused(_)), "{nobody}");
    settings.user = Some(User { name: "agent".into(), password_file: file.clone() });
    let error = Registry::connect(&settings).await.expect_err("no file").to_string();
    ensure!(error.contains(&file.display().to_string()), "{error}");
    fs::write(&file, "wrong")?;
    let error = Registry::connect(&settings).await.expect_err("a wrong password").to_string();
    ensure!(error.contains("authentication failed") && !error.contains("wrong"), "{error}");
    fs::write(&file, "word\n")?;
    let registry = Registry::connect(&settings).await?;
    let mut registration = registry.register(&host("node-28", "192.0.2.10:7443")).await?;
    ensure!(names(&registry).await?.len() == 1);
    ensure!(timeout(Duration::from_secs(6), registration.keep()).await.is_err(), "it is kept");
    Ok(())
}
