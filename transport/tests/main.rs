//! Both sides of the transport against each other, over loopback, with CAs made on the spot.

mod channel;
mod handshake;
mod loading;
mod offers;
mod reload;
mod support;
