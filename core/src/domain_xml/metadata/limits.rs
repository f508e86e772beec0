//! What a domain's definition says of its live migrations, in an element of our own.
//!
//! ```xml
//! <metadata>
//!   <vmferry:migration xmlns:vmferry="https://vmferry.org/xmlns/migration/1"
//!                      policy="gentle" max-downtime="200ms" postcopy="never" suspend="never"/>
//! </metadata>
//! ```

use roxmltree::Node;

use super::write::{Xml, element};
use crate::{
    convergence::{DOWNTIME, GuestLimits, May, judge_name},
    domain_xml::child,
};

/// The element's namespace; libvirt's key to it in `virDomainSetMetadata`.
pub const NAMESPACE: &str = "https://vmferry.org/xmlns/migration/1";

const ATTRIBUTES: &str = "policy, max-downtime, postcopy and suspend";

/// Metadata that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Something is there that cannot be.
    #[error("<migration> has {attribute} `{found}`: {why}")]
    Invalid {
        /// Which value it is.
        attribute: &'static str,
        /// The value.
        found: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something is there that might have been meant for a limit.
    #[error("<migration> has an attribute `{0}`; it knows {ATTRIBUTES}")]
    Unknown(String),
    /// An element is there that might have been meant for it.
    #[error("there is an element <{0}> of {NAMESPACE}, which has only <migration>")]
    Element(String),
    /// Two of them.
    #[error("there is more than one <migration>")]
    Twice,
}

/// Reads the limits of a `<domain>`. None are no error.
pub(in crate::domain_xml) fn read(domain: Node<'_, '_>) -> Result<GuestLimits, LimitsError> {
    let ours = child(domain, "metadata").into_iter().flat_map(|metadata| metadata.children());
    // A limit that is misspelled must not be taken for none.
    let mut ours = ours.filter(|node| node.is_element() && node.tag_name().namespace() == Some(NAMESPACE));
    let mut limits = GuestLimits::default();
    let Some(node) = ours.next() else { return Ok(limits) };
    if node.tag_name().name() != "migration" {
        return Err(LimitsError::Element(node.tag_name().name().to_owned()));
    }
    if ours.next().is_some() {
        return Err(LimitsError::Twice);
    }
    for attribute in node.attributes() {
        let found = attribute.value();
        let invalid = |attribute, why| LimitsError::Invalid { attribute, found: found.to_owned(), why };
        match attribute.name() {
            "policy" => {
                judge_name(found).map_err(|error| invalid("policy", error.to_string()))?;
                limits.policy = Some(found.to_owned());
            }
            "max-downtime" => {
                let downtime =
                    humantime::parse_duration(found).map_err(|error| invalid("max-downtime", error.to_string()))?;
                limits.max_downtime = Some(downtime);
            }
            "postcopy" => limits.postcopy = Some(found.parse().map_err(|why| invalid("postcopy", why))?),
            "suspend" => limits.suspend = Some(found.parse().map_err(|why| invalid("suspend", why))?),
            other => return Err(LimitsError::Unknown(other.to_owned())),
        }
    }
    judged(limits)
}

/// The same, if it can be.
pub fn judged(limits: GuestLimits) -> Result<GuestLimits, LimitsError> {
    if let Some(name) = &limits.policy {
        let invalid =
            |why: String| LimitsError::Invalid { attribute: "policy", found: name.escape_debug().to_string(), why };
        judge_name(name).map_err(|error| invalid(error.to_string()))?;
    }
    if let Some(downtime) = limits.max_downtime.filter(|downtime| !(DOWNTIME.0..=DOWNTIME.1).contains(downtime)) {
        let [found, least, most] = [downtime, DOWNTIME.0, DOWNTIME.1].map(humantime::format_duration);
        let why = format!("write {least} to {most}");
        return Err(LimitsError::Invalid { attribute: "max-downtime", found: found.to_string(), why });
    }
    Ok(limits)
}

/// The element that says all this, to be put into `<metadata>`, where it must be the only one of its namespace.
pub fn write(limits: &GuestLimits) -> String {
    migration("vmferry:", vec![("xmlns:vmferry", NAMESPACE)], limits)
}

/// The same for `virDomainSetMetadata`, which puts the namespace in by itself.
pub(super) fn write_bare(limits: &GuestLimits) -> String {
    migration("", vec![], limits)
}

fn migration(prefix: &'static str, namespace: Vec<(&'static str, &'static str)>, limits: &GuestLimits) -> String {
    let downtime = limits.max_downtime.map(|downtime| humantime::format_duration(downtime).to_string());
    let mut attributes: Vec<(&str, &str)> = namespace;
    attributes.extend(limits.policy.as_deref().map(|policy| ("policy", policy)));
    attributes.extend(downtime.as_deref().map(|downtime| ("max-downtime", downtime)));
    attributes.extend(limits.postcopy.map(May::as_str).map(|may| ("postcopy", may)));
    attributes.extend(limits.suspend.map(May::as_str).map(|may| ("suspend", may)));
    let mut xml = Xml::new(prefix);
    element(&mut xml, "migration", attributes, |_| ());
    xml.finish()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::domain_xml::parse;

    fn read_back(xml: &str) -> Result<GuestLimits, LimitsError> {
        let xml = format!("<domain><metadata><a:b xmlns:a='c'/>{xml}</metadata></domain>");
        read(parse(&xml).expect("well-formed").root_element())
    }

    proptest! {
        #[test]
        fn limits_read_back_as_they_were_written(
            policy in prop::option::of("[a-z0-9-]{1,64}"), millis in prop::option::of(1_u64..=2_000_000),
            postcopy in 0_usize..3, suspend in 0_usize..3,
        ) {
            let may = |which: usize| [None, Some(May::Never), Some(May::Allowed)][which];
            let max_downtime = millis.map(Duration::from_millis);
            let limits = GuestLimits { policy, max_downtime, postcopy: may(postcopy), suspend: may(suspend) };
            prop_assert_eq!(read_back(&write(&limits)), Ok(limits.clone()));
            let bare = write_bare(&limits).replace("<migration", &format!("<migration xmlns='{NAMESPACE}'"));
            prop_assert_eq!(read_back(&bare), Ok(limits), "as libvirt makes it, but for the prefix");
        }
    }

    #[test]
    fn nothing_said_is_no_limit() {
        assert_eq!(read_back(""), Ok(GuestLimits::default()));
        assert_eq!(read_back("<migration policy='a b'/>"), Ok(GuestLimits::default()), "somebody else's");
    }

    #[test]
    fn what_cannot_be_is_told() {
        let told = |attributes: &str| {
            read_back(&format!("<v:migration xmlns:v='{NAMESPACE}' {attributes}/>")).expect_err("invalid").to_string()
        };
        assert!(told("policy='Fast one'").starts_with("<migration> has policy `Fast one`: `Fast one` is no name"));
        assert!(told("max-downtime='soon'").starts_with("<migration> has max-downtime `soon`: "));
        assert_eq!(told("max-downtime='0s'"), "<migration> has max-downtime `0s`: write 1ms to 33m 20s");
        assert_eq!(told("max-downtime='1h'"), "<migration> has max-downtime `1h`: write 1ms to 33m 20s");
        assert_eq!(told("postcopy='no'"), "<migration> has postcopy `no`: `no` is neither `never` nor `allowed`");
        assert!(told("suspend=''").contains("neither"));
        assert_eq!(
            told("max-downtme='200ms'"),
            "<migration> has an attribute `max-downtme`; it knows policy, max-downtime, postcopy and suspend"
        );
        let one = write(&GuestLimits::default());
        assert_eq!(read_back(&format!("{one}{one}")), Err(LimitsError::Twice));
    }
}
