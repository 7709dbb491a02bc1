//! The API document and the page that shows it; and what the handlers use to describe
//! themselves.

mod document;
mod page;
pub(super) mod responses;
pub(super) mod schema;

pub(super) use self::document::document;
pub(super) use self::page::{page, redirect};
