//! Looking on.

use tonic::Status;
use vmferry_core::{
    agent::CallError,
    id::MigrationId,
    migration::{Progress, Record},
};
use vmferry_proto::v1;

use super::{RESTART, RemoteAgent, error, patience::Patience};

/// What somebody sees who looks on.
pub struct Seen {
    /// The source's half.
    pub record: Record,
    /// A sample of the job, if it is new.
    pub progress: Option<Progress>,
    /// Stands for this sample and all before it.
    pub token: u64,
}

impl RemoteAgent {
    /// Looks on while a migration that leaves this host goes on. Returns when this host's half has ended.
    pub async fn watch<E: From<CallError>>(
        &self,
        id: MigrationId,
        after: u64,
        mut seen: impl FnMut(Seen) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut token, mut patience) = (after, Patience::new(RESTART));
        loop {
            let before = token;
            let broken = match self.look_on(id, &mut token, &mut seen).await {
                Ok(ended) => return ended,
                Err(error) => error,
            };
            // It was heard meanwhile: the silence begins now.
            if token > before {
                patience = Patience::new(RESTART);
            }
            self.bear(broken, &mut patience).await?;
        }
    }

    async fn look_on<E>(
        &self,
        id: MigrationId,
        token: &mut u64,
        seen: &mut impl FnMut(Seen) -> Result<(), E>,
    ) -> Result<Result<(), E>, CallError> {
        let broken = |status: Status| error::from_status(&status, &self.place);
        let request = v1::WatchMigrationRequest { migration_id: id.to_string(), after: *token };
        let mut responses = self.phases().watch_migration(request).await.map_err(broken)?.into_inner();
        let mut has_ended = false;
        while let Some(response) = responses.message().await.map_err(broken)? {
            self.silence.ends();
            *token = response.token;
            let record: Record = self.read(response.migration)?;
            has_ended = record.outcome.is_some();
            let progress = response.progress.map(|progress| self.read(Some(progress))).transpose()?;
            if let Err(failed) = seen(Seen { record, progress, token: *token }) {
                return Ok(Err(failed));
            }
        }
        if has_ended { Ok(Ok(())) } else { Err(error::cut_short(&self.place)) }
    }
}
