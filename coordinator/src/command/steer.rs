//! `vmferry set`, `pause`, `resume`, `force-complete`: what a migration that goes on is told.

use vmferry_core::{
    agent::CallError,
    migration::{InvalidSteering, Steering},
};

use super::{Session, queue};
use crate::{
    cli::{self, Limit},
    exit::{Exit, Failed},
    render::steering::{told, told_document},
};

/// Sets limits of a migration that goes on.
pub(crate) async fn set(session: &Session, args: &cli::SetLimits) -> Result<Exit, Failed> {
    let wishes = args.limits.iter().map(|limit| match limit {
        Limit::MaxDowntime(downtime) => Steering::Downtime(*downtime),
        Limit::Bandwidth(bandwidth) => Steering::Bandwidth(*bandwidth),
        Limit::Deadline(deadline) => Steering::Deadline(*deadline),
    });
    tell(session, &args.which, wishes).await
}

/// Stops the guest, so that the rest can be sent, or sends the rest after it.
pub(crate) async fn force_complete(session: &Session, args: &cli::ForceComplete) -> Result<Exit, Failed> {
    let wish = match args.how {
        cli::How::Postcopy => Steering::Postcopy,
        cli::How::Suspend => Steering::Suspend,
    };
    tell(session, &args.which, [wish]).await
}

/// Has a migration send as little as can be.
pub(crate) async fn pause(session: &Session, which: &cli::WhichMigration) -> Result<Exit, Failed> {
    tell(session, which, [Steering::Pause]).await
}

/// Has it send again what it may.
pub(crate) async fn resume(session: &Session, which: &cli::WhichMigration) -> Result<Exit, Failed> {
    tell(session, which, [Steering::Resume]).await
}

/// Whatever makes no sense is said before anything is done.
async fn tell(
    session: &Session,
    which: &cli::WhichMigration,
    wishes: impl IntoIterator<Item = Steering>,
) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let judged: Result<Vec<_>, InvalidSteering> = wishes.into_iter().map(Steering::judged).collect();
    let wishes = judged.map_err(|invalid| Failed::usage(invalid.to_string()))?;
    let order = match session.moving(&which.migration).await {
        Ok(order) => order,
        Err(failed) => return Err(queue::cannot_be_told(session, &which.migration, failed).await),
    };
    let source = session.fleet.agent(&order.source.host)?;
    for (index, wish) in wishes.iter().enumerate() {
        source.steer(order.id, *wish).await.map_err(|error| {
            let done = told(&order, &wishes[..index]);
            CallError {
                message: format!("{error}{}{}", if index > 0 { "; before that: " } else { "" }, done.trim_end()),
                ..error
            }
        })?;
    }
    session.terminal.show(|| told(&order, &wishes), &told_document(&order, &wishes))?;
    Ok(Exit::Done)
}
