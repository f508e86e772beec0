//! The firewall on real packets: network namespaces of the test's own, a bridge, and guests that are pairs of links.

mod frames;
mod lan;
mod rules;
mod spoofing;
mod table;
