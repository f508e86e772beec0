//! What it says of security groups.

use super::*;

#[async_trait]
impl v1::group_service_server::GroupService for Agent {
    async fn get_groups(&self, _: Request<v1::GetGroupsRequest>) -> Result<Response<v1::GetGroupsResponse>, Status> {
        let mut report = GroupReport {
            host: self.name.parse().expect("valid"),
            here: Default::default(),
            own: if self.name == "node-31" { self.world().others.clone() } else { Memberships::new() },
            told: self.world().told.get(self.name).cloned().unwrap_or_default(),
        };
        report.here.extend(report.own.keys());
        if self.has_guest() {
            let guest = self.instance();
            let policy = guest.vifs.into_iter().find_map(|vif| vif.policy).unwrap_or_default();
            let groups: BTreeMap<_, _> =
                policy.groups.into_iter().map(|group| (group, policy.addresses.clone())).collect();
            report.here.insert(guest.id);
            if !groups.is_empty() {
                report.own.insert(guest.id, Member { name: guest.name, groups });
            }
        }
        Ok(Response::new(report.into()))
    }

    async fn tell_groups(
        &self,
        request: Request<v1::TellGroupsRequest>,
    ) -> Result<Response<v1::TellGroupsResponse>, Status> {
        let hosts = Told::try_from(request.into_inner()).expect("a coordinator of ours tells");
        let mut world = self.world();
        world.tellings += 1;
        world.told.entry(self.name.to_owned()).or_default().replace(hosts);
        if let Some(label) = world.meanwhile.take() {
            world.vif = Some(label);
        }
        Ok(Response::new(v1::TellGroupsResponse {}))
    }
}
