//! What libvirt's job is told, and what is sent before it.

use super::*;
use crate::undo::Undo;

fn resolved(world: &World) -> Vec<Resolved> {
    let resolved = world.ask(|disks| disks.resolved());
    assert_eq!(resolved.len(), world.disks.len(), "every disk has a way");
    resolved
}

#[test]
fn the_job_copies_what_is_copied_and_trusts_only_what_was_proved() {
    let b = another(WRITTEN).replace("/srv/a", "/srv/mid");
    let mut mixed = World::sharing(&format!("{WRITTEN}{b}{}", READ_ONLY.replace("vda", "vdc")));
    mixed.forget("/srv/a");
    let told = |sharing, copied: &[&str]| Ok(Transfer { sharing, copied: copied.iter().map(|&t| t.into()).collect() });
    let cases = [
        (mixed, told(Sharing::Proved, &["vda"])),
        (World::sharing(WRITTEN), told(Sharing::Proved, &[])),
        (World::apart(OVERLAY), told(Sharing::Unneeded, &["vda"])),
        (World::sharing(READ_ONLY), told(Sharing::Unneeded, &[])),
        (World::apart(READ_ONLY), told(Sharing::Unneeded, &[])),
        (World::apart("<disk device='cdrom'><target dev='vda'/></disk>"), told(Sharing::Unneeded, &[])),
        (volumes::world(RBD), told(Sharing::Unneeded, &[])),
        (volumes::world(BLOCK), told(Sharing::Unneeded, &[])),
    ];
    for (world, transfer) in cases {
        assert_eq!(super::transfer(&world.disks, &resolved(&world)), transfer);
    }
}

#[test]
fn of_a_guest_that_is_off_every_layer_is_sent_its_own_last_and_only_its_own_is_left_behind() {
    let world = World::apart(OVERLAY).cold();
    let resolved = self::resolved(&world);
    let paths: Vec<_> = sent(&resolved).into_iter().map(|image| image.path.as_str()).collect();
    assert_eq!(paths, ["/srv/base", "/srv/mid", "/srv/a"]);
    assert_eq!(sent_last(&resolved), ["/srv/a"].into());
    assert_eq!(left_behind(&resolved), [Undo::RemoveImage { path: "/srv/a".into() }]);
    assert_eq!(transfer(&world.disks, &resolved), Ok(Transfer { sharing: Sharing::Unneeded, copied: vec![] }));
    assert_eq!(transfer(&disks(&OVERLAY.replace("/srv/a", "/srv/x")), &resolved), Err("vda".into()));
    assert!(sent_last(&self::resolved(&World::apart(OVERLAY))).is_empty(), "what is copied by the job is not sent");
}

#[test]
fn a_disk_that_was_attached_or_exchanged_since_the_checks_was_never_judged() {
    let read_only = |xml: &str| xml.replace("</disk>", "<readonly/></disk>");
    let empty = "<disk device='cdrom'><target dev='vda'/><readonly/></disk>";
    let as_block = "<disk type='block'><source dev='/srv/a'/><target dev='vda'/></disk>";
    let file_below = "<backingStore type='file'><source file='/srv/x'/></backingStore></disk>";
    let cases = [
        (World::sharing(WRITTEN), WRITTEN.replace("/srv/a", "/srv/x")),
        (World::sharing(WRITTEN), read_only(WRITTEN)),
        (World::sharing(WRITTEN), WRITTEN.replace("</disk>", file_below)),
        (World::sharing(WRITTEN), as_block.into()),
        (World::sharing(OVERLAY), WRITTEN.into()),
        (World::sharing(OVERLAY), OVERLAY.replace("/srv/base", "/srv/x")),
        (World::apart(WRITTEN), WRITTEN.replace("/srv/a", "/srv/x")),
        (World::apart(WRITTEN), read_only(WRITTEN)),
        (World::apart(OVERLAY), OVERLAY.replace("/srv/mid", "/srv/x")),
        (World::apart(READ_ONLY), READ_ONLY.replace("/srv/iso", "/srv/x")),
        (World::apart(READ_ONLY), READ_ONLY.replace("<readonly/>", "")),
        (World::apart(READ_ONLY), empty.into()),
        (World::apart(empty), READ_ONLY.into()),
        (volumes::world(RBD), RBD.replace("vms/web", "vms/x")),
        (volumes::world(BLOCK), BLOCK.into()),
        (volumes::world(RBD), WRITTEN.into()),
    ];
    for (world, xml) in cases {
        let before = resolved(&world);
        assert!(transfer(&world.disks, &before).is_ok(), "{xml}");
        assert_eq!(transfer(&disks(&xml), &before), Err("vda".into()), "{xml}");
    }
    let attached = format!("{WRITTEN}{}", another(READ_ONLY));
    assert_eq!(transfer(&disks(&attached), &resolved(&World::sharing(WRITTEN))), Err("vdb".into()));
}

#[test]
fn a_disk_that_was_detached_since_the_checks_is_nobodys() {
    let before = resolved(&World::apart(&format!("{WRITTEN}{}", another(READ_ONLY))));
    assert_eq!(
        transfer(&disks(&another(READ_ONLY)), &before),
        Ok(Transfer { sharing: Sharing::Unneeded, copied: vec![] })
    );
}

#[test]
fn what_is_sent_comes_after_what_it_needs_and_once() {
    let b = another(OVERLAY).replace("/srv/a", "/srv/b");
    let medium = READ_ONLY
        .replace("vda", "vdc")
        .replace("</disk>", "<backingStore type='file'><source file='/srv/base'/></backingStore></disk>");
    let mut world = World::apart(&format!("{OVERLAY}{b}{medium}"));
    world.shown.files.push(file("/srv/b", 20));
    world.shown.images.push(image("/srv/b"));
    let paths = |world: &World| sent(&resolved(world)).iter().map(|image| image.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&world), ["/srv/base", "/srv/mid", "/srv/iso"], "and no image that the job copies");
    world.see("/srv/base", true, None);
    world.see("/srv/iso", false, Some("d"));
    assert_eq!(paths(&world), ["/srv/mid"]);
}
