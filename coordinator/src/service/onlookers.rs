//! Looking on at a migration for somebody, however slow they are.

use tokio::sync::mpsc;
use tonic::Status;
use vmferry_core::{id::MigrationId, reason::Reason};
use vmferry_proto::fleet;

use crate::{
    client::{RemoteAgent, Seen},
    exit::Failed,
};

/// How far who looks on may be behind, in messages.
pub(super) const BEHIND: usize = 256;

/// Tells what the source tells until it has ended its half, or nobody listens any more. Who is too slow for it is told the rest
/// afterwards: the source keeps its samples, and the connection to it is others', too.
pub(super) async fn tell(
    source: &RemoteAgent,
    id: MigrationId,
    after: u64,
    listener: &mpsc::Sender<Result<fleet::WatchMigrationResponse, Status>>,
) -> Result<(), Failed> {
    let mut told = after;
    loop {
        let (from, mut is_behind) = (told, false);
        let seen = |Seen { record, progress, token }: Seen| {
            let progress = progress.map(Into::into);
            let response = fleet::WatchMigrationResponse { migration: Some(record.into()), progress, token };
            listener.try_send(Ok(response)).map_err(|_| {
                is_behind = true;
                Failed::because(Reason::Internal, "who looks on is behind")
            })?;
            told = token;
            Ok(())
        };
        let watched = source.watch(id, from, seen).await;
        if !is_behind {
            return watched;
        }
        if listener.reserve_many(BEHIND / 2).await.is_err() {
            return Ok(());
        }
    }
}
