//! All that knows libvirt's tags. Text in, values out; unknown elements are none of our business.

mod capabilities;
mod cpu;
mod definition;
mod disk;
mod filter;
pub mod metadata;
mod placement;
pub mod rewrite;
mod secret;
mod volume;

pub use capabilities::{Capabilities, HostCapabilities};
pub use cpu::GuestCpu;
pub use definition::{Definition, HostState, Obstacle, VifFilter};
pub use disk::{DiskDefinition, Layer};
pub use filter::FilterDefinition;
pub use placement::{HugePages, cpu_list};
pub use secret::{SecretDefinition, SecretKind};
pub use volume::secrets;

/// A document from libvirt that does not say what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not XML.
    #[error("not well-formed XML: {0}")]
    Malformed(String),
    /// Something is missing.
    #[error("<{parent}> has no valid <{wanted}>")]
    Missing {
        /// Where it was looked for.
        parent: &'static str,
        /// What was looked for.
        wanted: &'static str,
    },
}

/// The definition without the passwords of its displays: libvirt's migratable definition has them, since a host that takes the
/// guest must. Nobody else needs them.
pub fn without_passwords(xml: &str) -> Result<String, Error> {
    let document = parse(xml)?;
    let attributes = document.descendants().filter(|node| node.has_tag_name("graphics"));
    let passwords = attributes.filter_map(|node| node.attribute_node("passwd")).map(|password| password.range());
    let mut kept = String::with_capacity(xml.len());
    let mut end = 0;
    for password in passwords {
        kept.push_str(&xml[end..password.start]);
        end = password.end;
    }
    kept.push_str(&xml[end..]);
    Ok(kept)
}

fn parse(xml: &str) -> Result<roxmltree::Document<'_>, Error> {
    roxmltree::Document::parse(xml).map_err(|error| Error::Malformed(error.to_string()))
}

fn child<'a, 'd>(node: roxmltree::Node<'a, 'd>, name: &str) -> Option<roxmltree::Node<'a, 'd>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn text<'a>(node: roxmltree::Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name).and_then(|child| child.text()).map(str::trim)
}

/// Whether XML 1.0 can hold the character at all.
fn is_xml(c: char) -> bool {
    !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_can_do_without_its_passwords() {
        let xml = "<domain><devices><graphics type='vnc' passwd='hunter2' port='1'/><input type='mouse'/>
            <graphics type='spice' passwd=\"a'b\"/></devices></domain>";
        let expected = "<domain><devices><graphics type='vnc'  port='1'/><input type='mouse'/>
            <graphics type='spice' /></devices></domain>";
        assert_eq!(without_passwords(xml).as_deref(), Ok(expected));
        assert!(without_passwords("<domain").is_err());
    }
}
