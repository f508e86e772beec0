//! Waiting for a turn. An agent of before lets everybody begin at once.

use std::{convert::Infallible, time::Duration};

use tokio::time::sleep;
use tonic::{Code, Response, Status};
use vmferry_core::{
    agent::CallError,
    migration::{Order, Side},
    turns::{Admission, KEPT, Waiter},
};
use vmferry_proto::{convert::wire_duration, v1};

use super::{LOOK, PREPARING, RESTART, RemoteAgent, wire};

impl RemoteAgent {
    /// The migrations that wait on this host.
    pub async fn waiters(&self) -> Result<Vec<Waiter>, CallError> {
        let mut waiters = self.queued().await?;
        waiters.retain(|waiter| !waiter.has_turn);
        Ok(waiters)
    }

    /// The migrations that wait on this host, and those that have their turn here and have not begun.
    pub async fn queued(&self) -> Result<Vec<Waiter>, CallError> {
        let mut client = self.phases();
        let call = async { or_default(client.list_waiting(v1::ListWaitingRequest {}).await) };
        let answer = self.within(LOOK, call).await?;
        answer.waiters.into_iter().map(|waiter| self.read(Some(waiter))).collect()
    }

    /// Whether it is the migration's turn. An agent that is being restarted is waited for.
    pub(super) async fn ask_for_turn(&self, order: &Order, side: Side, hold: Duration) -> Result<Admission, CallError> {
        let request =
            v1::AdmitRequest { order: Some(order.clone().into()), side: wire(side), hold: Some(wire_duration(hold)) };
        let admit = || {
            let (mut client, request) = (self.phases(), request.clone());
            async move { or_default(client.admit(request).await) }
        };
        let answer = self.repeated(hold + RESTART + LOOK, RESTART, admit).await?;
        self.read(Some(answer))
    }

    /// Asks for the turn that it has, for as long as it is polled, so that it is not taken for one that nobody uses.
    pub(super) async fn ask_to_keep_turn(&self, order: &Order, side: Side) -> Infallible {
        loop {
            sleep(KEPT / 3).await;
            if let Err(error) = self.ask_for_turn(order, side, Duration::ZERO).await {
                tracing::debug!(%error, "whether it keeps its turn shows when it begins");
            }
        }
    }

    /// The migration does not want its turn any more. Nobody waits for long for who does not hear it: it forgets by itself.
    pub(super) async fn give_up_turn(&self, order: &Order) -> Result<(), CallError> {
        let request = v1::WithdrawRequest { order: Some(order.clone().into()) };
        let mut client = self.phases();
        let call = async { or_default(client.withdraw(request).await) };
        self.within(PREPARING, call).await.map(drop)
    }
}

fn or_default<T: Default>(answer: Result<Response<T>, Status>) -> Result<Response<T>, Status> {
    match answer {
        Err(status) if status.code() == Code::Unimplemented => Ok(Response::new(T::default())),
        answer => answer,
    }
}
