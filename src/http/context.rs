//! The data that the guard stores with a request: its caller and its permit.

use std::cell::RefMut;
use std::sync::Arc;

use actix_web::dev::Extensions;
use actix_web::{HttpMessage, HttpRequest};

use crate::admission::{Permit, RequestClass};
use crate::auth::Identity;

/// The data that the guard stores with a request.
#[derive(Default)]
pub(super) struct RequestContext {
    pub(super) caller: Option<Arc<Identity>>,
    pub(super) permit: Option<(RequestClass, Permit)>,
    /// Whether the request was held because its client asked for that.
    pub(super) waited: bool,
}

pub(super) fn context(request: &HttpRequest) -> Option<RefMut<'_, RequestContext>> {
    RefMut::filter_map(request.extensions_mut(), Extensions::get_mut).ok()
}

/// Releases the permit of a request, and returns its class.
pub(super) fn release_permit(request: &HttpRequest) -> Option<RequestClass> {
    let permit = context(request)?.permit.take();
    permit.map(|(class, _)| class)
}

/// Stores another permit with a request, until it is answered.
pub(super) fn replace_permit(request: &HttpRequest, class: RequestClass, permit: Permit) {
    if let Some(mut context) = context(request) {
        context.permit = Some((class, permit));
    }
}

/// Marks a request as held because its client asked for that.
pub(super) fn note_wait(request: &HttpRequest) {
    if let Some(mut context) = context(request) {
        context.waited = true;
    }
}
