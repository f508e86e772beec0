use std::sync::Arc;

use tonic::{Request, Response, Status};
use vmferry_core::{
    instance::{Instance, InstanceState},
    migration::Side,
    reason::Reason,
};
use vmferry_proto::{
    status::from_call_error,
    v1::{
        GetInstanceRequest, GetInstanceResponse, ListInstancesRequest, ListInstancesResponse,
        instance_service_server::InstanceService,
    },
};

use crate::{
    hypervisor::{Fault, Hypervisor as _, LibvirtHost},
    migrations::Migrations,
};

pub(super) struct Service {
    migrations: Arc<Migrations<LibvirtHost>>,
}

impl Service {
    pub(super) fn new(migrations: Arc<Migrations<LibvirtHost>>) -> Self {
        Self { migrations }
    }

    /// Adds what only the journal knows: the migration, and that a guest that runs and leaves is MIGRATING.
    fn with_migration(&self, mut instance: Instance) -> Instance {
        instance.migration = self.migrations.active_of(instance.id);
        if let Some(id) = instance.migration
            && instance.state == InstanceState::Active
            && self.migrations.get(id).is_ok_and(|migration| migration.state().side() == Side::Source)
        {
            instance.state = InstanceState::Migrating;
        }
        instance
    }

    fn status(&self, fault: Fault) -> Status {
        from_call_error(&self.migrations.call_error(fault))
    }
}

#[tonic::async_trait]
impl InstanceService for Service {
    async fn list_instances(
        &self,
        _: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let mut instances = self.migrations.host().instances().await.map_err(|fault| self.status(fault))?;
        instances.sort_by(|one, other| one.name.cmp(&other.name));
        let instances = instances.into_iter().map(|instance| self.with_migration(instance).into()).collect();
        Ok(Response::new(ListInstancesResponse { instances }))
    }

    async fn get_instance(
        &self,
        request: Request<GetInstanceRequest>,
    ) -> Result<Response<GetInstanceResponse>, Status> {
        let wanted = request.into_inner().instance;
        let host = self.migrations.host();
        let found = host.instance(&wanted).await.map_err(|fault| self.status(fault))?.ok_or_else(|| {
            let message = format!("{} has no instance `{wanted}`; `vmferry instances` lists them", host.name());
            self.status(Fault::new(Reason::InstanceNotFound, message))
        })?;
        Ok(Response::new(GetInstanceResponse { instance: Some(self.with_migration(found).into()) }))
    }
}
