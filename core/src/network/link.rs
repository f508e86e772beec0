use serde::{Deserialize, Serialize};

use crate::id::name;

/// The name of a network device, as the kernel takes it: 1 to 15 bytes without white space, `/` and `:`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(String);

impl LinkName {
    /// One that is known to be one.
    pub(super) fn known(name: String) -> Self {
        debug_assert!(is_link_name(&name), "{name}");
        Self(name)
    }
}

/// What the kernel's `dev_valid_name` asks for; beyond it only what can be written in a configuration.
fn is_link_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '"' | '\\' | '%');
    (1..=15).contains(&text.len()) && text.chars().all(good) && !matches!(text, "." | "..")
}

name!(LinkName, is_link_name, "name of a network device");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_the_kernel_takes() {
        for good in ["br0", "eth0.20", "br-int", "fifteen-bytes-0"] {
            assert_eq!(good.parse::<LinkName>().expect("valid").as_str(), good);
        }
        for bad in ["", ".", "..", "sixteen-bytes-00", "a b", "a/b", "a:b", "br%d", "br\"", "brü"] {
            assert!(bad.parse::<LinkName>().is_err(), "{bad}");
        }
    }
}
