#![doc = include_str!("../guide/index.md")]

#[doc = include_str!("../guide/port.md")]
pub mod port {}

#[doc = include_str!("../guide/isas.md")]
pub mod isas {}

#[doc = include_str!("../guide/protocol.md")]
pub mod protocol {}

#[doc = include_str!("../guide/cost.md")]
pub mod cost {}

#[doc = include_str!("../guide/migrating.md")]
pub mod migrating {}
