//! How a migration went, to be looked at: a picture, and a page with it. Each is one file that needs nothing from elsewhere.

mod chart;
mod page;
mod picture;

pub(crate) use self::{page::page, picture::picture};

#[cfg(test)]
pub(crate) mod tests;
