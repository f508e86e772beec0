//! What it says of its host.

use super::*;

#[async_trait]
impl v1::host_service_server::HostService for Agent {
    async fn get_host(&self, _: Request<v1::GetHostRequest>) -> Result<Response<v1::GetHostResponse>, Status> {
        if self.world().is_without_libvirt && self.name == "node-28" {
            return Err(self.error(Reason::LibvirtFailed, "libvirt cannot be reached at qemu:///system: refused"));
        }
        self.world().facts += 1;
        let ahead = if self.name == "node-31" { self.world().clock_ahead } else { 0 };
        let slow = self.world().slow_host.filter(|(name, _)| *name == self.name);
        if let Some((_, pause)) = slow {
            sleep(pause).await;
        }
        let host = Host {
            name: self.name.parse().expect("valid"),
            zone: if self.name == "node-31" { "nova2" } else { "nova" }.into(),
            agent_version: "0.1.0".into(),
            libvirt_version: "9.0.0".into(),
            qemu_version: "7.2.22".into(),
            architecture: "x86_64".into(),
            cpu_model: "EPYC-Milan".into(),
            cpus: 4,
            memory_total: ByteSize::gib(8),
            memory_available: ByteSize::gib(5),
            instances_active: self.has_guest().into(),
            instances_total: self.has_guest().into(),
            migrations_active: 0,
            certificate_expires: Timestamp::now() + jiff::SignedDuration::from_hours(24 * 10),
            cordon: self.world().cordons.get(self.name).cloned(),
            room: Some(room()),
            answered: Some(Timestamp::now() + jiff::SignedDuration::from_secs(ahead)),
        };
        Ok(Response::new(v1::GetHostResponse { host: Some(host.into()) }))
    }

    async fn cordon(&self, request: Request<v1::CordonRequest>) -> Result<Response<v1::CordonResponse>, Status> {
        let reason = request.into_inner().reason;
        if reason.is_empty() {
            return Err(self.error(Reason::InvalidRequest, "a cordon needs a reason"));
        }
        let since = "2026-11-23T14:00:00Z".parse().expect("valid");
        let cordon = Cordon { reason, by: "vmferry://cloud/coordinator/ops".into(), since };
        self.world().cordons.insert(self.name.to_owned(), cordon.clone());
        Ok(Response::new(v1::CordonResponse { cordon: Some(cordon.into()) }))
    }

    async fn uncordon(&self, _: Request<v1::UncordonRequest>) -> Result<Response<v1::UncordonResponse>, Status> {
        let mut world = self.world();
        let was = world.cordons.remove(self.name);
        if let Some(cordon) = was.clone() {
            let ended = Timestamp::now();
            world.last_cordons.insert(self.name.to_owned(), LastCordon { cordon, ended });
        }
        let last = world.last_cordons.get(self.name).cloned();
        Ok(Response::new(Uncordoned { was, last }.into()))
    }

    async fn list_policies(
        &self,
        _: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let mut world = self.world();
        world.policies_asked += 1;
        if world.is_old {
            return Err(Status::unimplemented("an unknown method"));
        }
        let configured = if self.name == "node-28" { &world.policies[..] } else { &[] };
        let policies = host_policies(configured).into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListPoliciesResponse { policies }))
    }

    async fn examine(&self, _: Request<v1::ExamineRequest>) -> Result<Response<v1::ExamineResponse>, Status> {
        let found = if self.name == "node-28" { self.world().leftovers.clone() } else { vec![] };
        Ok(Response::new(v1::ExamineResponse { leftovers: found.into_iter().map(Into::into).collect() }))
    }

    async fn remove_leftovers(
        &self,
        request: Request<v1::RemoveLeftoversRequest>,
    ) -> Result<Response<v1::RemoveLeftoversResponse>, Status> {
        let mut world = self.world();
        let remove = |name: v1::LeftoverName| {
            let name = LeftoverName::try_from(name).expect("a name");
            let there = world.leftovers.len();
            world.leftovers.retain(|leftover| leftover.name() != name || !leftover.removable);
            v1::Removal::from(if world.leftovers.len() < there { Removal::Removed } else { Removal::NotFound })
        };
        let removals = request.into_inner().leftovers.into_iter().map(remove).collect();
        Ok(Response::new(v1::RemoveLeftoversResponse { removals }))
    }
}
