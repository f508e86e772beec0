//! The testbed: real hosts on one machine, and the place where end-to-end tests live.
//!
//! A [`Testbed`] is a number of hypervisors. Each is a systemd-nspawn container with its own systemd, libvirtd,
//! virtlogd, agent and certificates, on a root file system that is an overlay over one shared Debian tree
//! ([`tree`]). Two networks join them ([`network`]): an *underlay* for management and migration, and a separate
//! data plane for guests. Nothing is installed on the machine itself, nothing is put into its own network
//! namespace, and any number of testbeds exist side by side.
//!
//! ```no_run
//! use vmferry_tests::{guest::LinuxGuest, testbed::{Options, Testbed}};
//!
//! # fn main() -> anyhow::Result<()> {
//! let testbed = Testbed::up(Options::default())?;
//! let guest = testbed.start(LinuxGuest::new("web-1"), "node-28")?;
//! let pinger = testbed.ping(guest.address()?)?;
//! // … migrate …
//! assert!(pinger.stop()?.longest_gap.as_millis() < 500);
//! guest.console().assert_steady()?;
//! # Ok(()) // and everything is gone, also after a panic, SIGINT or SIGTERM
//! # }
//! ```
//!
//! # Why containers with systemd, and not bare namespaces
//!
//! - The unit that ships is the unit that is tested; later the same holds for the package.
//! - PID 1 reaps. libvirt waits for a source QEMU to vanish; without a reaper of its own, each host would depend on
//!   the machine's init, and every migrate call would return up to two seconds late.
//! - A host boots in about a second, dies at once (its init is killed), and takes all its processes with it.
//! - libvirtd starts by socket activation and is restarted as on a real host.
//!
//! What they are not: there is one kernel, so modules, `/dev/kvm` and global sysctls are the machine's.
//!
//! # Where things are
//!
//! | | |
//! |---|---|
//! | `/var/cache/vmferry-testbed/tree-HASH` | the shared tree, built once |
//! | `/run/vmferry-testbed/NAME/` | `state.json`, `inventory.toml`, `pki/`, a console log per host |
//! | `/var/lib/vmferry-testbed/NAME/` | overlays and `shared/` (in every host: `/srv/shared`; a host's own: `/srv/local`) |
//! | netns `vmf-NAME` | the fabric: bridges `underlay` (192.0.2.1/24) and `guests` (198.51.100.1/24) |
//! | netns `vmf-NAME-HOST` | `underlay0` (192.0.2.10 and up), bridge `br0` with `guests0` in it |
//! | netns `vmf-NAME-storage` | `underlay0` (192.0.2.5 and 192.0.2.6) of the storage node, if there is one ([`storage`]) |

pub mod agent;
pub mod alone;
pub mod binaries;
mod boot;
pub mod campaign;
pub mod capture;
pub mod carrier;
pub mod console;
pub mod coordinator;
pub mod cost;
pub mod direct;
pub mod dns;
pub mod etcd;
pub mod finish;
pub mod fleet;
pub mod frames;
pub mod guest;
pub mod host;
pub mod kernel_vm;
pub mod layout;
pub mod leaks;
pub mod network;
mod options;
pub mod ping;
mod pki;
pub mod process;
pub mod signals;
pub mod state;
pub mod storage;
pub mod stream;
pub mod teardown;
pub mod testbed;
pub mod told;
pub mod tree;
pub mod wait;

pub use host::Host;
pub use testbed::{Options, Testbed};
