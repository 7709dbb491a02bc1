//! The three actors and their mailboxes.

mod heartbeat;
mod lifeline;
mod mailbox;
mod registry;
mod scheduler;

use actix::Message;

pub use self::heartbeat::{
    HeartbeatActor, HeartbeatOutcome, HeartbeatReply, RecordHeartbeats, Revoke,
};
pub use self::lifeline::{Lifeline, Spawner};
use self::mailbox::admit;
pub use self::mailbox::{Admitted, AskError, Mailbox, MailboxLimits};
pub use self::registry::{
    AppendEvents, Attest, ChangeInstance, DeclareScope, DeleteScope, DeregisterInstance,
    DisableServiceInstance, Drain, MigrateSchema, PurgeOffline, RecordOffline, RecordOnline,
    RefreshNotice, RegisterInstance, RegistryActor, Write,
};
pub use self::scheduler::{RollCall, RollCallReport, SchedulerActor, until_next};

/// Checks that an actor handles its messages. No effect.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Ping;
