//! The hosts of now: what the file, DNS and etcd say, or said last.

use std::{future::pending, path::Path, time::Duration};

use jiff::Timestamp;
use tokio::{sync::watch, time::sleep};
use vmferry_core::migration::Endpoint;
use vmferry_registry::{Changes, Settings};

use super::{
    Cache, File, Invalid, Inventory, LeftOut, Places, Warning, etcd,
    merge::{Merged, merge},
};

/// How often everything is asked again, for a program that stays. etcd tells of changes before that.
const REFRESH: Duration = Duration::from_secs(30);

/// The same while etcd is away.
const RETRY: Duration = Duration::from_secs(5);

/// Hosts come and go in crowds.
const SETTLE: Duration = Duration::from_millis(200);

/// Where hosts are looked for.
#[derive(Debug)]
pub(crate) struct Source {
    places: Places,
    cache: Cache,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loaded {
    /// Usable.
    pub(crate) inventory: Inventory,
    /// Hosts of a name that another has already.
    pub(crate) left_out: Vec<LeftOut>,
    /// What somebody should look at.
    pub(crate) warnings: Vec<Warning>,
}

impl Source {
    /// Reads nothing yet.
    pub(crate) fn new(places: Places, cache: Cache) -> Self {
        Self { places, cache }
    }

    /// Reads the file and asks DNS and etcd, if it names them, once. Of one that is away what it said last is used.
    ///
    /// # Errors
    ///
    /// There is no file, or it is wrong; or one that is away has not said anything before.
    pub(crate) async fn load(&self) -> Result<Loaded, Invalid> {
        self.gather(self.places.read()?).await
    }

    /// The same, and a task that asks again whenever etcd says that hosts come or go, and at intervals. What is wrong later is a
    /// warning, and the hosts stay as they were. Our certificate is read by others; [`Inventory::tls`] says where. The task ends when
    /// all receivers are gone.
    ///
    /// # Errors
    ///
    /// As of [`Source::load`].
    pub(crate) async fn follow(
        self,
    ) -> Result<(watch::Receiver<Loaded>, impl Future<Output = ()> + Send + 'static), Invalid> {
        let (sender, receiver) = watch::channel(self.load().await?);
        Ok((receiver, self.go_on(sender)))
    }

    async fn go_on(self, sender: watch::Sender<Loaded>) {
        let mut watched: Option<(Settings, Changes)> = None;
        loop {
            // What cannot be read now was read before, or is said below.
            let settings = self.places.read().ok().and_then(|file| file.etcd);
            watched = watched.filter(|(before, _)| Some(before) == settings.as_ref());
            let pause = if settings.is_some() && watched.is_none() { RETRY } else { REFRESH };
            tokio::select! {
                () = sender.closed() => return,
                () = sleep(pause) => {}
                () = change(settings, &mut watched) => sleep(SETTLE).await,
            }
            let loaded = self.load().await;
            sender.send_if_modified(|current| {
                let newest = match loaded {
                    Ok(loaded) => loaded,
                    Err(invalid) => Loaded { warnings: vec![invalid.to_string().into()], ..current.clone() },
                };
                let is_new = *current != newest;
                *current = newest;
                is_new
            });
        }
    }

    async fn gather(&self, file: File) -> Result<Loaded, Invalid> {
        let File { mut inventory, dns, etcd } = file;
        if inventory.coordinator.is_some() {
            // It knows the hosts.
            return Ok(Loaded { inventory, left_out: Vec::new(), warnings: Vec::new() });
        }
        let mut warnings = Vec::new();
        let (by_dns, by_etcd) = tokio::join!(async { Some(dns.as_ref()?.hosts().await) }, async {
            Some(etcd::hosts(etcd.as_ref()?).await)
        });
        let mut sources = vec![(in_file(&inventory.path), inventory.hosts)];
        for (place, answer) in [(dns.map(|dns| dns.place()), by_dns), (etcd.map(|etcd| source_of(&etcd)), by_etcd)] {
            let Some((place, answer)) = place.zip(answer) else { continue };
            let hosts = self.answered(&place, answer, &mut warnings)?;
            sources.push((place, hosts));
        }
        let Merged { hosts, left_out, warnings: conflicts } = merge(sources);
        inventory.hosts = hosts;
        let told = left_out.iter().map(|left_out| left_out.why.message.clone());
        warnings.extend(conflicts.into_iter().chain(told).map(Warning::from));
        Ok(Loaded { inventory, left_out, warnings })
    }

    /// What a source says, or said last.
    fn answered(
        &self,
        place: &str,
        answer: Result<(Vec<Endpoint>, Vec<String>), String>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Vec<Endpoint>, Invalid> {
        let now = Timestamp::now();
        match answer {
            Ok((hosts, problems)) => {
                let (gone, unkept) = self.cache.remember(place, &hosts, now);
                warnings.extend(problems.into_iter().chain(unkept).map(Warning::from));
                warnings.extend(gone.into_iter().map(|known| Warning::Gone { place: place.to_owned(), known }));
                Ok(hosts)
            }
            Err(why) => match self.cache.recall(place, now) {
                Ok((hosts, since)) => {
                    warnings.push(Warning::Away { place: place.to_owned(), why, hosts: hosts.len(), since });
                    Ok(hosts)
                }
                Err(forgotten) => Err(Invalid::Unavailable { place: place.to_owned(), why, forgotten }),
            },
        }
    }
}

fn in_file(path: &Path) -> String {
    format!("the inventory {}", path.display())
}

/// Two prefixes of one etcd are two sources.
fn source_of(etcd: &Settings) -> String {
    format!("{} below {}", etcd.place(), etcd.prefix)
}

/// Returns when there is something to be asked for again.
async fn change(settings: Option<Settings>, watched: &mut Option<(Settings, Changes)>) {
    let Some(settings) = settings else { return pending().await };
    if let Some((_, changes)) = watched {
        // Whatever it was: it is asked again, and watched anew if the watch has ended.
        if changes.next().await.is_err() {
            *watched = None;
        }
        return;
    }
    match etcd::changes(&settings).await {
        // What has happened before it is not told.
        Ok(changes) => *watched = Some((settings, changes)),
        Err(_) => pending().await,
    }
}

#[cfg(test)]
mod tests;
