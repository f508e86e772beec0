//! The packages on hosts of their own: `make test-packages`. Every test needs what `make packages` has made.

mod life;
mod page;
mod rig;
mod rpm;
