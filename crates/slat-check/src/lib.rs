//! Runs slat beside a model of the hardware and a naive specification, and says where they disagree.
//!
//! A sequence of [operations](operation) goes to slat, whose frames lie in the RAM of the model's machine, and to the
//! [specification]. After every single store of slat to a table, what any CPU could now see of the pages in play must be
//! the old mapping, the new one or a fault. After every operation the three must agree, frames must add up, and no CPU
//! may reach what went back to the allocator. [`checks::Check`] lists the checks; [`mistakes::Mistake`] lists mistakes that
//! are made on purpose, so that each check is seen to fail.

mod audited;
mod changes;
pub mod checks;
pub mod driver;
mod execute;
pub mod exhaustive;
mod forks;
pub mod fuzz;
pub mod guest_walk;
pub mod host;
pub mod hostile;
mod ledger;
mod lending;
mod logging;
pub mod maintenance;
pub mod mistakes;
pub mod operation;
mod paging;
pub mod platform;
mod private;
pub mod random;
mod refused;
pub mod run;
pub mod shape;
pub mod specification;
pub mod watch;
