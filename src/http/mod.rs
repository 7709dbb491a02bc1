//! The HTTP side: the route table, and what handlers share.
//!
//! A handler extracts, parses into the model, asks one actor or reads the Directory,
//! and maps the answer. It knows no SQL, no Redis and no writer.

mod error;
mod events;
mod extract;
mod gateway_center;
mod heartbeats;
mod instances;
mod ops;
mod overview;
mod progress;
mod scopes;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{DefaultHeaders, Next, from_fn};
use actix_web::{FromRequest, Handler, HttpRequest, Responder, ResponseError, Route, web};

pub use self::error::Problem;
pub use self::progress::Progress;
use crate::actor::{HeartbeatActor, Mailbox, RegistryActor, SchedulerActor};
use crate::clock::Clock;
use crate::directory::Directory;
use crate::feed::Feed;
use crate::model::Ttl;
use crate::protection::Protection;

/// What handlers work with; one on each HTTP worker.
pub struct Api {
    /// For everything that changes the registry.
    pub registry: Mailbox<RegistryActor>,
    /// For heartbeats; this worker's own.
    pub heartbeat: Mailbox<HeartbeatActor>,
    /// For the state of the roll call.
    pub scheduler: Mailbox<SchedulerActor>,
    /// For everything that is read.
    pub directory: Arc<Directory>,
    /// For what is shown of protection.
    pub protection: Arc<Protection>,
    /// For those who want to be told.
    pub feed: Arc<Feed>,
    /// For the spread of heartbeats.
    pub clock: Arc<dyn Clock>,
    /// How often the roll is called.
    pub roll_interval: Duration,
    /// The time to live of instances that gave none.
    pub default_ttl: Ttl,
    /// Whether requests are served.
    pub progress: Progress,
}

/// A path and what it takes.
struct Path {
    pattern: &'static str,
    routes: Vec<(Method, Route)>,
    /// Also served before the stores are there.
    probe: bool,
}

/// Every path of the daemon.
fn table() -> Vec<Path> {
    vec![
        path("/v1/{kind:groups|services}", [get(scopes::list)]),
        path(
            "/v1/{kind:groups|services}/{key}",
            [
                get(scopes::show),
                put(scopes::declare),
                delete(scopes::remove),
            ],
        ),
        path(
            "/v1/{kind:groups|services}/{key}/instances",
            [get(instances::list)],
        ),
        path(
            "/v1/{kind:groups|services}/{key}/instances/{address}",
            [
                get(instances::show),
                put(instances::register),
                patch(instances::change),
                delete(instances::deregister),
            ],
        ),
        path(
            "/v1/{kind:groups|services}/{key}/instances/{address}/heartbeat",
            [put(heartbeats::beat)],
        ),
        path("/v1/heartbeats", [post(heartbeats::beat_many)]),
        path("/v1/events", [get(events::stream)]),
        path("/v1/overview", [get(overview::show)]),
        path("/v1/protection/confirm", [post(overview::confirm)]),
        path(
            "/gateway-group-detail/create",
            [post(gateway_center::create)],
        ),
        path(
            "/gateway-group-detail/keep-alive",
            [put(gateway_center::keep_gateway_alive)],
        ),
        path(
            "/gateway-server-detail/register",
            [post(gateway_center::register)],
        ),
        path(
            "/gateway-server-detail/keep-alive",
            [put(gateway_center::keep_server_alive)],
        ),
        path(
            "/gateway-server-detail/offline",
            [put(gateway_center::offline)],
        ),
        probe("/livez", [get(ops::livez)]),
        probe("/readyz", [get(ops::readyz)]),
    ]
}

/// Adds every path to an application.
pub fn configure(app: &mut web::ServiceConfig) {
    for Path {
        pattern,
        routes,
        probe,
    } in table()
    {
        let allow: Vec<&str> = routes.iter().map(|(method, _)| method.as_str()).collect();
        let allow = allow.join(", ");
        let mut resource = web::resource(pattern);
        for (_, route) in routes {
            resource = resource.route(route);
        }
        let resource = resource.default_service(web::to(move || {
            let problem = Problem::method_not_allowed(allow.clone());
            async { Err::<&str, _>(problem) }
        }));
        if probe {
            app.service(resource);
        } else {
            app.service(resource.wrap(from_fn(refuse_until_started)));
        }
    }
    app.default_service(web::to(no_such_route));
}

/// The headers of every answer.
pub fn headers() -> DefaultHeaders {
    DefaultHeaders::new()
        .add(("X-Content-Type-Options", "nosniff"))
        .add(("Cache-Control", "no-store"))
}

async fn no_such_route(request: HttpRequest) -> Result<&'static str, Problem> {
    let path: String = request.path().chars().take(200).collect();
    Err(Problem::new(
        StatusCode::NOT_FOUND,
        "no_such_route",
        format!("there is nothing at {path:?}"),
    ))
}

async fn refuse_until_started(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    match request.app_data::<web::Data<Api>>() {
        Some(api) if api.progress.has_started() => {
            Ok(next.call(request).await?.map_into_left_body())
        }
        _ => {
            let problem = Problem::unavailable(
                "starting",
                "the daemon is starting and waits for its stores; /readyz says for which",
            );
            let answer = request.into_response(problem.error_response());
            Ok(answer.map_into_right_body())
        }
    }
}

fn path<const N: usize>(pattern: &'static str, routes: [(Method, Route); N]) -> Path {
    Path {
        pattern,
        routes: routes.into(),
        probe: false,
    }
}

fn probe<const N: usize>(pattern: &'static str, routes: [(Method, Route); N]) -> Path {
    Path {
        probe: true,
        ..path(pattern, routes)
    }
}

macro_rules! methods {
    ($($name:ident $method:ident),*) => {$(
        fn $name<F, Args>(handler: F) -> (Method, Route)
        where
            F: Handler<Args>,
            Args: FromRequest + 'static,
            F::Output: Responder + 'static,
            F::Future: Future,
        {
            (Method::$method, web::$name().to(handler))
        }
    )*};
}
methods!(get GET, put PUT, post POST, patch PATCH, delete DELETE);
