//! A migration from its beginning to its end, whichever coordinators drive it.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use vmferry_proto::fleet::{Ended, MigrateRequest, Wish, migrate_response::Event};

use crate::{Client, Error};

/// How long nobody may answer, until that is told to the caller.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn migrate(
    client: &Client,
    id: Uuid,
    wish: Wish,
    mut event: impl FnMut(Event),
) -> Result<Ended, Error> {
    let request = MigrateRequest { migration_id: id.to_string(), wish: Some(wish) };
    let pauses = || {
        ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(5))
            .without_max_times()
            .with_jitter()
            .build()
    };
    let (mut since, mut waiting, mut asked) = (Instant::now(), pauses(), false);
    loop {
        let mut is_heard = false;
        let error = match follow(client, &request, &mut event, &mut is_heard).await {
            Ok(ended) => return Ok(ended),
            Err(error) => error,
        };
        if is_heard {
            (since, waiting) = (Instant::now(), pauses());
        }
        if !error.may_pass() || since.elapsed() >= PATIENCE {
            return Err(if error.leaves_open(asked) { error.leaving_open(id) } else { error });
        }
        asked |= error.is_asked();
        let pause = waiting.next().unwrap_or(PATIENCE);
        tracing::debug!(migration = %id, ?pause, %error, "asking again");
        sleep(pause).await;
    }
}

async fn follow(
    client: &Client,
    request: &MigrateRequest,
    event: &mut impl FnMut(Event),
    is_heard: &mut bool,
) -> Result<Ended, Error> {
    let failed = |status: tonic::Status| Error::of(&status, &client.name);
    let mut stream = client.calls().migrate(request.clone()).await.map_err(failed)?.into_inner();
    while let Some(response) = stream.message().await.map_err(failed)? {
        *is_heard = true;
        match response.event {
            Some(Event::Ended(ended)) => return Ok(ended),
            Some(other) => event(other),
            None => {} // An event that this version does not know.
        }
    }
    Err(Error::cut_short(&client.name))
}
