//! The three actors and their mailboxes.

mod heartbeat;
mod lifeline;
mod mailbox;
mod registry;
mod scheduler;

use actix::Message;

pub(crate) use self::heartbeat::HideLease;
pub use self::heartbeat::{HeartbeatActor, HeartbeatOutcome, RecordHeartbeats, Revoke};
pub use self::lifeline::Lifeline;
pub(crate) use self::lifeline::Spawner;
use self::mailbox::admit;
pub use self::mailbox::{Admitted, AskError, Mailbox, MailboxLimits};
pub(crate) use self::registry::{
    Attest, DeleteScope, DisableServiceInstance, EndHolds, MigrateSchema, PurgeActions,
    PurgeOffline, RecordAction, RecordOnline, RegisterInstances, Requested, TakeOffline,
};
pub use self::registry::{
    ChangeInstance, DeclareScope, DeregisterInstance, Drain, LeaveInstance, Left, RecordOffline,
    RefreshNotice, RegisterInstance, RegistryActor, Write, WriteError,
};
pub(crate) use self::scheduler::until_next;
pub use self::scheduler::{RollCall, RollCallReport, SchedulerActor};

/// Checks that an actor handles its messages. No effect.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Ping;
