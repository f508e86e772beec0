use std::sync::Arc;

use tonic::{Request, Response, Status};
use vmferry_core::reason::Reason;
use vmferry_proto::{
    convert::required,
    status::from_call_error,
    v1::{
        GetGroupsRequest, GetGroupsResponse, TellGroupsRequest, TellGroupsResponse, group_service_server::GroupService,
    },
};

use crate::{
    hypervisor::{Fault, Served},
    migrations::Migrations,
};

pub(super) struct Service<H> {
    migrations: Arc<Migrations<H>>,
}

impl<H: Served> Service<H> {
    pub(super) fn new(migrations: Arc<Migrations<H>>) -> Self {
        Self { migrations }
    }

    fn status(&self, fault: Fault) -> Status {
        from_call_error(&self.migrations.call_error(fault))
    }
}

#[tonic::async_trait]
impl<H: Served> GroupService for Service<H> {
    async fn get_groups(&self, _: Request<GetGroupsRequest>) -> Result<Response<GetGroupsResponse>, Status> {
        let report = self.migrations.host().groups().await.map_err(|fault| self.status(fault))?;
        Ok(Response::new(report.into()))
    }

    async fn tell_groups(&self, request: Request<TellGroupsRequest>) -> Result<Response<TellGroupsResponse>, Status> {
        let hosts = required(Some(request.into_inner()), "hosts").map_err(|invalid| {
            self.status(Fault::new(Reason::InvalidRequest, format!("the request is not understood: {invalid}")))
        })?;
        self.migrations.host().tell_groups(hosts).await.map_err(|fault| self.status(fault))?;
        Ok(Response::new(TellGroupsResponse {}))
    }
}
