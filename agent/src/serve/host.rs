use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tracing::info;
use vmferry_core::{
    host::Cordon,
    leftovers::{Leftover, Needs, leftovers},
};
use vmferry_proto::{
    status::from_call_error,
    v1::{
        CordonRequest, CordonResponse, ExamineRequest, ExamineResponse, GetHostRequest, GetHostResponse,
        ListPoliciesRequest, ListPoliciesResponse, UncordonRequest, UncordonResponse, host_service_server::HostService,
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

    /// Holdings before needs: what comes meanwhile is not seen, and not taken for a leftover.
    async fn leftovers(&self) -> Result<Vec<Leftover>, Fault> {
        let migrations = &self.migrations;
        let halves_before = migrations.halves();
        let mut holdings = migrations.host().holdings().await?;
        match migrations.probe_lists() {
            Ok(lists) => holdings.probes = lists,
            Err(error) => holdings.unseen.push(("lists of probe files".into(), error.to_string())),
        }
        let needs = migrations.host().needs().await?;
        let needs = Needs { halves: migrations.halves(), halves_before, ..needs };
        Ok(leftovers(&holdings, &needs, Timestamp::now()))
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
        let found = self.leftovers().await.map_err(|fault| from_call_error(&self.migrations.call_error(fault)))?;
        Ok(Response::new(ExamineResponse { leftovers: found.into_iter().map(Into::into).collect() }))
    }

    async fn list_policies(&self, _: Request<ListPoliciesRequest>) -> Result<Response<ListPoliciesResponse>, Status> {
        let policies = self.migrations.host().policies();
        Ok(Response::new(ListPoliciesResponse { policies: policies.into_iter().map(Into::into).collect() }))
    }
}
