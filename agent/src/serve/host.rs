use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Response, Status};
use vmferry_proto::{
    status::from_call_error,
    v1::{GetHostRequest, GetHostResponse, host_service_server::HostService},
};
use vmferry_transport::Credentials;

use crate::{hypervisor::LibvirtHost, migrations::Migrations};

pub(super) struct Service {
    migrations: Arc<Migrations<LibvirtHost>>,
    zone: String,
    credentials: watch::Receiver<Credentials>,
}

impl Service {
    pub(super) fn new(
        migrations: Arc<Migrations<LibvirtHost>>,
        zone: String,
        credentials: watch::Receiver<Credentials>,
    ) -> Self {
        Self { migrations, zone, credentials }
    }
}

#[tonic::async_trait]
impl HostService for Service {
    async fn get_host(&self, _: Request<GetHostRequest>) -> Result<Response<GetHostResponse>, Status> {
        let migrations = &self.migrations;
        let active = migrations.records(true).len();
        let expires = self.credentials.borrow().not_after();
        let facts = migrations
            .host()
            .facts(&self.zone, migrations.claimed(None), u32::try_from(active).unwrap_or(u32::MAX), expires)
            .await
            .map_err(|fault| from_call_error(&migrations.call_error(fault)))?;
        Ok(Response::new(GetHostResponse { host: Some(facts.into()) }))
    }
}
