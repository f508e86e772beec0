use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tracing::info;
use vmferry_core::{host::Cordon, leftovers::LeftoverName, reason::Reason};
use vmferry_proto::{
    status::from_call_error,
    v1::{
        CordonRequest, CordonResponse, ExamineRequest, ExamineResponse, GetHostRequest, GetHostResponse,
        ListPoliciesRequest, ListPoliciesResponse, RemoveLeftoversRequest, RemoveLeftoversResponse, UncordonRequest,
        UncordonResponse, host_service_server::HostService,
    },
};
use vmferry_transport::Credentials;

use super::migration::asker;
use crate::{
    hypervisor::{Fault, Served},
    migrations::Migrations,
};

pub(super) struct Service<H> {
    migrations: Arc<Migrations<H>>,
    zone: String,
    credentials: watch::Receiver<Credentials>,
}

impl<H: Served> Service<H> {
    pub(super) fn new(migrations: Arc<Migrations<H>>, zone: String, credentials: watch::Receiver<Credentials>) -> Self {
        Self { migrations, zone, credentials }
    }
}

#[tonic::async_trait]
impl<H: Served> HostService for Service<H> {
    async fn get_host(&self, _: Request<GetHostRequest>) -> Result<Response<GetHostResponse>, Status> {
        let (migrations, gate) = (&self.migrations, self.migrations.gate());
        let active = migrations.records(true).len();
        let expires = self.credentials.borrow().not_after();
        let facts = migrations
            .host()
            .facts(&self.zone, &gate.claims(None), gate.cordon(), u32::try_from(active).unwrap_or(u32::MAX), expires)
            .await
            .map_err(|fault| from_call_error(&migrations.call_error(fault)))?;
        Ok(Response::new(GetHostResponse { host: Some(facts.into()) }))
    }

    async fn cordon(&self, request: Request<CordonRequest>) -> Result<Response<CordonResponse>, Status> {
        let by = asker(&request);
        let cordon = self.migrations.gate().close(&request.into_inner().reason, &by);
        let cordon = cordon.map_err(|fault| from_call_error(&self.migrations.call_error(fault)))?;
        info!("cordoned by {by}: {}", cordon.reason);
        Ok(Response::new(CordonResponse { cordon: Some(cordon.into()) }))
    }

    async fn uncordon(&self, request: Request<UncordonRequest>) -> Result<Response<UncordonResponse>, Status> {
        let opened = self.migrations.gate().open();
        let opened = opened.map_err(|fault| from_call_error(&self.migrations.call_error(fault)))?;
        if let Some(Cordon { reason, .. }) = &opened.was {
            info!("no longer cordoned, says {}; it was because: {reason}", asker(&request));
        }
        Ok(Response::new(opened.into()))
    }

    async fn examine(&self, _: Request<ExamineRequest>) -> Result<Response<ExamineResponse>, Status> {
        let found = self.migrations.leftovers().await;
        let found = found.map_err(|fault| from_call_error(&self.migrations.call_error(fault)))?;
        Ok(Response::new(ExamineResponse {
            leftovers: found.into_iter().map(|finding| finding.leftover.into()).collect(),
        }))
    }

    async fn remove_leftovers(
        &self,
        request: Request<RemoveLeftoversRequest>,
    ) -> Result<Response<RemoveLeftoversResponse>, Status> {
        let by = asker(&request);
        let names =
            request.into_inner().leftovers.into_iter().map(LeftoverName::try_from).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|error| {
            let message = format!("which leftovers are to be removed cannot be told: {error}");
            from_call_error(&self.migrations.call_error(Fault::new(Reason::InvalidRequest, message)))
        })?;
        info!("{by} has {} leftovers removed", names.len());
        // Whoever asked may go away: what was begun is done.
        let migrations = Arc::clone(&self.migrations);
        let removed = tokio::spawn(async move { migrations.remove_leftovers(&names).await }).await;
        let removed = removed.unwrap_or_else(|error| Err(Fault::new(Reason::Internal, error.to_string())));
        let removed = removed.map_err(|fault| from_call_error(&self.migrations.call_error(fault)))?;
        Ok(Response::new(RemoveLeftoversResponse { removals: removed.into_iter().map(Into::into).collect() }))
    }

    async fn list_policies(&self, _: Request<ListPoliciesRequest>) -> Result<Response<ListPoliciesResponse>, Status> {
        let policies = self.migrations.host().policies();
        Ok(Response::new(ListPoliciesResponse { policies: policies.into_iter().map(Into::into).collect() }))
    }
}
