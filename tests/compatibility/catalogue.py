"""Every behaviour of NodeODM and its clients that the contract names, what we make of it, and why where we differ.

Sections are those of the wire contract (`nodeodm-contract.md`); the sentences here are our own.
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How our behaviour stands to NodeODM's."""

    SAME = "same"
    BETTER = "better"
    DIFFERENT = "different on purpose"
    NOT_KEPT = "not kept"


@dataclass(frozen=True, slots=True)
class Row:
    """One behaviour."""

    name: str
    """The section's number and a title, by which tests name the row."""
    says: str
    kind: Kind = Kind.SAME
    why: str = ""
    """What we do instead, and why; needed unless it is the same."""
    checklist: tuple[int, ...] = ()
    """Points of the contract's section 11 that it fulfils."""

    @property
    def section(self) -> str:
        """Its section's number."""
        return self.name.partition(" ")[0]


SECTIONS = {
    "1": "Rules for every endpoint",
    "2.1": "`GET /`",
    "2.2": "`GET /swagger.json`",
    "2.3": "`GET /info`",
    "2.4": "`GET /options`",
    "2.5": "`GET /task/list`",
    "2.6": "`GET /task/{uuid}/info`",
    "2.7": "`GET /task/{uuid}/output`",
    "2.8": "`GET /task/{uuid}/download/{asset}`",
    "2.9": "`POST /task/new/init`",
    "2.10": "`POST /task/new/upload/{uuid}`",
    "2.11": "`POST /task/new/commit/{uuid}`",
    "2.12": "`POST /task/new`",
    "2.13": "`POST /task/cancel`, `/task/remove`, `/task/restart`",
    "2.14": "`/auth/*`",
    "2.15": "`set-uuid`",
    "3.1": "Status codes",
    "3.2": "A task's name",
    "3.3": "Why a task failed",
    "3.4": "Time and progress",
    "3.5": "What leads from one state to another",
    "4.1": "Reading options",
    "4.2": "Converting and checking options",
    "4.3": "Errors of options",
    "4.4": "Options that are added",
    "5": "Input files and staging",
    "6.1": "Calling the engine",
    "6.2": "Progress of a run",
    "6.3": "Results",
    "7": "Webhooks",
    "7.1": "Limits, clean-up, persistence",
    "7.2": "Defects of NodeODM that are not copied",
    "8.1": "PyODM",
    "8.2": "WebODM",
    "8.3": "ODM's split-merge",
    "8.4": "ClusterODM as a client",
    "8.5": "drone-tm, in ScaleODM's dialect",
    "10": "Where ScaleODM in Go deviates from NodeODM",
}

_SAME, _BETTER, _DIFFERENT, _NOT_KEPT = Kind.SAME, Kind.BETTER, Kind.DIFFERENT, Kind.NOT_KEPT

_RULES = (
    Row("1 errors are 200", "An error is status 200 and a JSON object with a text `error`.", checklist=(1,)),
    Row("1 success has no error", "What succeeds has no key `error`, not even an empty one.", checklist=(1,)),
    Row("1 unrouted", "An unknown path or method is a 404 page of HTML that names both."),
    Row("1 preflight", "Any `OPTIONS` request is answered 204, with methods and the headers that were asked for."),
    Row("1 cors", "Every answer may be read by pages of any origin: refusals, redirects and 404 pages too."),
    Row("1 etag", "304 for a JSON answer that the client has already.", _NOT_KEPT, "No client asks; polls differ."),
    Row("1 debug hook", "`GET /info?_debugUnauthorized=1` is a bare 401, after the token."),
    Row("1 broken json", "A JSON body that cannot be parsed is 200 with what is wrong with it."),
    Row("1 large body", "A JSON or urlencoded body over 100 kB is `request entity too large`."),
    Row("1 broken multipart", "No boundary, an early end, a text field over 1 MiB: 200 with NodeODM's words."),
    Row(
        "1 broken path",
        "A path with a broken percent sign is an error of status 200.",
        _DIFFERENT,
        "It is read as a uuid that nobody has, and answered so.",
    ),
    Row("1 three shapes", "Errors of cancel, remove and restart have `success: false`; an empty upload `noRetry`."),
    Row("1 content type", "JSON is `application/json; charset=utf-8`.", checklist=(2,)),
    Row("1 express headers", "`X-Powered-By: Express`.", _NOT_KEPT, "It would not be true."),
    Row("1 kind paths", "Paths are read without regard to case and to a slash at their end; uuids with regard to it."),
    Row("1 head", "`HEAD` works wherever `GET` does."),
    Row("1 wrong token", "A missing, wrong or repeated `?token=` is refused in NodeODM's words."),
    Row(
        "1 token in header",
        "A token elsewhere than in the query is ignored.",
        _BETTER,
        "`Authorization: Bearer` counts too, so that a token need not stand in logs of proxies.",
    ),
    Row("1 no token needed", "Without authentication any token is let pass, the word `undefined` too."),
    Row("1 open paths", "`/`, `/swagger.json` and `/auth/*` need no token."),
    Row("1 body first", "Cancel, remove and restart find fault with the body before the token."),
    Row("1 authorized ips", "A list of addresses that may call.", _NOT_KEPT, "A firewall's or a tailnet's business."),
    Row("1 no upload limit", "An upload may have any size; memory does not grow with it."),
    Row("1 expect", "`Expect: 100-continue` is answered, as libcurl asks for it."),
    Row(
        "1 never 5xx",
        "What cannot be answered is no 5xx and no 429: WebODM would fail a healthy task for it.",
        _BETTER,
        "NodeODM has no such state; we drop the connection, which every client tries again.",
        checklist=(13,),
    ),
)
_READING = (
    Row("2.1 page", "A page for people, without a token."),
    Row("2.2 document", "Swagger 2.0, NodeODM's sixteen paths in it; each of them is answered."),
    Row(
        "2.3 fields",
        "Exactly NodeODM's nine fields: whole numbers for counts and bytes, no text over 32 characters.",
        checklist=(3,),
    ),
    Row("2.3 version", "`version` is three numbers, 2.1.2 or later.", checklist=(3,)),
    Row("2.3 queue count", "`taskQueueCount` counts tasks in state 10 or 20."),
    Row("2.3 max images", "`maxImages` is null when there is no limit, else the limit.", checklist=(3,)),
    Row("2.3 slots", "`maxParallelTasks` is the number of slots; a router's, of all its nodes together."),
    Row("2.3 fast", "It needs no other machine, so it answers in milliseconds."),
    Row("2.4 keys", "Each option has exactly `name`, `type`, `value`, `domain`, `help`.", checklist=(4,)),
    Row(
        "2.4 types",
        "`int`, `float`, `string`, `bool`, `enum`; defaults are text; an enum's domain is a list.",
        checklist=(4,),
    ),
    Row("2.4 rerun-from", "The domain of `rerun-from` begins with an empty text, then `dataset`.", checklist=(4,)),
    Row("2.4 engine", "They are the options of the engine that runs, 82 of ODM 3.6.0."),
    Row("2.5 list", "Every task in any state as `{uuid}`, without uploads that are not committed."),
    Row("2.6 fields", "uuid, name, dateCreated, processingTime, status, options, imagesCount, progress; times in ms."),
    Row("2.6 unknown", "An unknown uuid, or one that is not committed, is `<uuid> not found`."),
    Row("2.6 error message", "`errorMessage` stands in `status` only when a task failed."),
    Row("2.6 options", "`options` are typed values in the order of `/options`, `[]` when there are none."),
    Row("2.6 images", "`imagesCount` counts the images, from the commit's answer on."),
    Row(
        "2.6 with_output",
        "`with_output` gives the console from there on, as JavaScript's `slice`; even 0 or empty.",
        checklist=(7,),
    ),
    Row("2.7 list", "A list of texts, from `line` on by the same rule; `[]` for a task that waits.", checklist=(7,)),
    Row(
        "2.7 cleaned",
        "Colour codes are removed.",
        _BETTER,
        "One element is one line, and none is the bare word `error`, at which PyODM stumbles.",
        checklist=(8,),
    ),
    Row("2.8 invalid asset", "A name that is no asset is `Invalid asset`."),
    Row("2.8 not ready", "An asset that is not there yet is `Asset not ready`."),
    Row("2.8 after cancel", "`all.zip` of a finished task can be had after it was canceled."),
    Row(
        "2.8 archive",
        "`all.zip` comes as an attachment of that name, with its length.",
        _BETTER,
        "From S3, by a link made for this request: no byte passes the router.",
        checklist=(9,),
    ),
    Row(
        "2.8 ranges",
        "A range is ignored.",
        _BETTER,
        "Ranges work where the S3 server knows them, and PyODM downloads in sixteen parts.",
        checklist=(9,),
    ),
    Row(
        "2.8 single assets",
        "Single products cannot be had.",
        _BETTER,
        "`/task/{uuid}/assets` lists them, and each can be downloaded, by ScaleODM's short names too.",
    ),
)
_WRITING = (
    Row("2.9 fields", "Multipart text fields, all of them optional; the answer is `{uuid}`.", checklist=(5,)),
    Row(
        "2.9 other bodies",
        "Fields of a JSON or urlencoded body are lost.",
        _BETTER,
        "They are read.",
    ),
    Row("2.9 no files", "A file is `Unexpected field`."),
    Row("2.9 again", "The same uuid again, before commit: new fields, and the files stay.", checklist=(5,)),
    Row("2.9 skip post-processing", "`skipPostProcessing` is true for exactly the text `true`."),
    Row("2.9 date", "`dateCreated` is milliseconds; what cannot be read is now."),
    Row("2.9 invalid options", "Invalid options are told, and no upload is opened."),
    Row(
        "2.10 success",
        "One or many files under the name `images`; text fields beside them are ignored.",
        checklist=(5,),
    ),
    Row("2.10 parallel", "Many connections may upload at once to one task.", checklist=(5,)),
    Row("2.10 no files", "No file is `Need at least 1 file.` with `noRetry`."),
    Row("2.10 not open", "A uuid that is not open is `Invalid uuid (not found)`."),
    Row("2.10 other field", "A file under another name is `Unexpected field`."),
    Row("2.10 safe names", "Only a file's base name is kept; `body.json` becomes `_body.json`."),
    Row(
        "2.10 twice",
        "A file whose name is taken gets an underscore.",
        _BETTER,
        "Two different files do; the same file sent twice is kept once.",
    ),
    Row(
        "2.10 broken off",
        "What comes of a file before the connection breaks stays, and is processed.",
        _BETTER,
        "A file is there whole or not at all.",
    ),
    Row("2.11 body", "The body of a commit is not read, whatever its type.", checklist=(5,)),
    Row("2.11 empty", "Without files it is `Need at least 1 file.`, and the uuid is dead."),
    Row(
        "2.11 twice",
        "A second commit is `Invalid uuid (not found)`.",
        _BETTER,
        "It answers as the first: a client that lost the answer need not guess.",
    ),
    Row("2.11 later errors", "Too many images or a broken archive are no errors of the commit: the task becomes 30."),
    Row(
        "2.12 files",
        "Fields and files in one multipart request.",
    ),
    Row("2.12 nothing", "Neither files nor a reference is `Need at least 1 file or a zip file url.`."),
    Row("2.12 too many", "More files than `maxImages` are refused with both numbers."),
    Row("2.12 reference", "S3 references as JSON, as a form or as multipart (ScaleODM's way)."),
    Row("2.13 forms", "Cancel, remove and restart take a form or JSON; multipart has no uuid.", checklist=(10,)),
    Row("2.13 no uuid", "Without a uuid: `uuid param missing.`"),
    Row("2.13 unknown", "An unknown uuid: `success: false` and `<uuid> not found`.", checklist=(2,)),
    Row("2.13 cancel twice", "Cancel succeeds for every known task, again and again.", checklist=(11,)),
    Row("2.13 remove twice", "A second remove says `<uuid> not found`.", checklist=(11,)),
    Row("2.13 restart refused", "A task that waits or runs is `Task cannot be restarted`."),
    Row("2.13 restart options", "Invalid options are told without `success`, and nothing changes."),
    Row("2.14 info", "No login and no registration is on offer, in NodeODM's words."),
    Row("2.14 login", "Login and registration are `Not available`."),
    Row("2.15 echoed", "The uuid that a client asks for is taken, and echoed as it is spelled.", checklist=(5,)),
    Row("2.15 refused", "What is no UUID of version 1 to 7, or is taken, is `Invalid set-uuid`."),
)
_TASKS = (
    Row("3.1 codes", "10, 20, 30, 40, 50, and no others."),
    Row(
        "3.2 default",
        "An empty name becomes `Task of <now>`; without the field the name is missing, at which PyODM fails.",
        _BETTER,
        "In both cases the default is given.",
    ),
    Row("3.2 any text", "A name may be any text."),
    Row(
        "3.3 exit codes",
        "NodeODM's sentence for the engine's exit code.",
        _BETTER,
        "Followed by the engine's own last complaint, where it made one.",
    ),
    Row("3.3 input", "What was wrong with the input.", _BETTER, "In plain words, with what to do."),
    Row(
        "3.3 after the engine",
        "A failure after the engine has ended gives no reason.",
        _BETTER,
        "It is told too.",
    ),
    Row("3.4 minus one", "`processingTime` is -1 until the engine runs, and after a cancel.", checklist=(6,)),
    Row("3.4 frozen", "It stands still when the task has ended."),
    Row("3.4 hundred", "A run that ended has progress 100, also when it failed."),
    Row("3.5 commit", "From the commit's answer on a task is 20, and 10 only if it really waits.", checklist=(6,)),
    Row(
        "3.5 queue",
        "First come, first served, as far as slots go.",
    ),
    Row("3.5 cancel", "A canceled run ends with every process, and its slot is free."),
    Row("3.5 cancel a finished task", "It becomes 50."),
    Row("3.5 remove", "A removed task is unknown, and what was uploaded for it is gone."),
    Row("3.5 restart", "The same uuid, a new date, progress and console from the start.", checklist=(10,)),
    Row("3.5 restart options", "New options replace all old ones; an empty list clears them.", checklist=(10,)),
    Row(
        "3.5 rerun-from",
        "A restart with `rerun-from` goes on from that stage.",
        _BETTER,
        "Where the workspace is kept; in a cluster it goes with its pod, and then the console says so.",
    ),
    Row("3.5 restart a canceled task", "A canceled or failed task can be restarted."),
    Row(
        "3.5 cancel wins",
        "A cancel while products are packed is lost.",
        _BETTER,
        "After `success` a task never becomes 40.",
    ),
)
_OPTIONS = (
    Row("4.1 no list", "What is no list counts as no options; unparsable text is told."),
    Row("4.1 unknown names", "Unknown options are dropped; of two of one name the first counts."),
    Row("4.2 conversion", "Numbers as JavaScript parses them, booleans from NodeODM's four texts, enums exactly."),
    Row("4.2 domains", "Ranges, `json` and enums are checked with NodeODM's words."),
    Row("4.2 every default", "Every default of every option would be taken."),
    Row("4.3 all at once", "Every problem at once, as JSON in `error`, in the order of `/options`."),
    Row("4.4 post-processing", "`pc-ept`, `cog`, `gltf` are added where the engine has them."),
    Row("4.4 skipped", "Not with `skipPostProcessing`."),
    Row("4.4 max concurrency", "`max-concurrency` is capped by a setting of the node, and added where it is missing."),
)
_RUNNING = (
    Row("5 images", "Every file of the upload reaches the engine's `images`, without its folders."),
    Row("5 gcp", "`geo.txt`, `image_groups.txt` and any other `.txt` are handed to the engine as such."),
    Row("5 align", "`align.las`, `align.laz`, `align.tif` are handed to the engine as such."),
    Row("5 seed", "`seed.zip` is unpacked over the project; a corrupt one fails the task."),
    Row("5 zipurl", "An archive by `zipurl` is unpacked without its folders."),
    Row("5 zipurl http", "`zipurl` over http and https."),
    Row("5 safe archives", "Members that would leave the folder do so.", _BETTER, "They are refused or kept inside."),
    Row("5 limit", "Too many images fail the task, with both numbers."),
    Row("6.1 arguments", "One `--name value` for each option, a bare flag for true, nothing for false."),
    Row("6.1 no shell", "Values pass through a shell.", _BETTER, "The engine is started with a list.", checklist=(15,)),
    Row("6.1 terminated", "Cancel sends SIGTERM to every process.", _BETTER, "And SIGKILL to one that ignores it."),
    Row(
        "6.2 source",
        "Progress comes by UDP datagrams of the engine.",
        _DIFFERENT,
        "Read from ODM's log by ODM's own weights: it works across machines, and nobody else can send it.",
        checklist=(15,),
    ),
    Row("6.2 never back", "Progress never goes back, and is scaled to leave room for packing."),
    Row(
        "6.3 members",
        "`all.zip` has NodeODM's members, relative to the project, without a folder around them.",
        checklist=(12,),
    ),
    Row("6.3 console", "`task_output.txt` is always among them.", checklist=(12,)),
    Row(
        "6.3 outputs",
        "`outputs` replaces the list: files and folders, never outside the project.",
        _BETTER,
        "The console is beside them, which WebODM looks for.",
        checklist=(12,),
    ),
    Row("6.3 outputs unreadable", "An `outputs` that is no list is ignored."),
    Row(
        "6.3 nothing made",
        "A run whose products are missing or broken is completed.",
        _BETTER,
        "It has failed, and says which.",
    ),
    Row("6.3 s3", "Products can be put into S3.", _BETTER, "They always are, the manifest last."),
    Row("7 payload", "The task's info and `images` are posted once a run has ended."),
    Row("7 when", "Completed, failed, or canceled while it ran; not when it had not begun."),
    Row("7 both", "The task's own webhook and the node's are called."),
    Row("7 success", "Only status 200 is success."),
    Row(
        "7 retries",
        "Six tries within 50 s, which a restart forgets.",
        _BETTER,
        "Tried for half a day, on record, over restarts; then signed off as failed.",
    ),
    Row("7 signed", "No signature.", _BETTER, "Signed, where a secret is set."),
    Row("7 private", "Any address is called.", _BETTER, "Private networks only where that is allowed."),
    Row("7.1 port", "Without a setting, the first free port from 3000 on.", _NOT_KEPT, "3000, and 3001 for nodes."),
    Row("7.1 max images", "A node may limit the images of a task."),
    Row("7.1 max runtime", "A run may be limited in time; then it ends, and its console says why."),
    Row("7.1 old tasks", "Ended tasks are forgotten by age."),
    Row("7.1 old uploads", "Uploads that were never committed are cleared away by age."),
    Row(
        "7.1 restart of the server",
        "Tasks are known after a restart.",
        _BETTER,
        "With progress, time and console, and after a crash too; what ran goes on.",
        checklist=(14,),
    ),
    Row("7.2 numeric options", "A number among the options kills the server.", _BETTER, "It does not."),
    Row("7.2 quotes", "JSON options lose their quotes.", _BETTER, "They reach the engine as they were."),
)
_CLIENTS = (
    Row("8.1 whole way", "PyODM as it is: upload, poll, download."),
    Row("8.1 large archive", "Over 10 MiB PyODM asks for ranges, and takes the whole where there are none."),
    Row("8.1 error words", "PyODM raises our own words for a refusal and a wrong token."),
    Row("8.1 every method", "Every method of PyODM's node and task."),
    Row("8.1 ranges", "Sixteen connections with ranges, from an S3 server that knows them."),
    Row("8.2 refresh", "`/info` and `/options` again and again, with nothing to stumble over."),
    Row("8.2 polling", "The first poll, `with_output=0`, has the console; further ones go on from there."),
    Row("8.2 conformance", "What WebODM's own test-suite for nodes expects: options, restart, cancel, remove, token."),
    Row("8.2 rerun-from", "Restart and Resume: the second and the last of the stages that `rerun-from` lists."),
    Row("8.3 accepted", "A submodel is 20 right after its commit, never 10 where a slot is free."),
    Row("8.3 probe", "`with_output=-3` gives the last three lines, by which it counts what really runs."),
    Row("8.3 seed", "`seed.zip` with empty files, and `outputs` with folders."),
    Row("8.3 sm-cluster", "A task with `split` gets the router as its cluster, with a token for its children only."),
    Row("8.3 no deadlock", "Parents that fill every slot do not wait for ever for their children."),
    Row("8.4 transfer", "The same uuid again from init on: files that come twice are kept once."),
    Row("8.4 many files", "Several files in one request, twenty connections at once."),
    Row("8.4 commit", "An empty commit that calls itself multipart, and a token that is empty or `undefined`."),
    Row("8.4 ranges", "`Range` on the way through a proxy."),
    Row("8.4 admin", "Cancel, remove and restart as JSON."),
    Row("8.5 submit", "JSON with S3 references, scan depth, patterns and capacity type; a bad value is told."),
    Row("8.5 poll", "`status.code` and `status.errorMessage`, at status 200."),
)
_SCALEODM = (
    Row(
        "10 1",
        "Chunked uploads, `/auth/*` and `/swagger.json` are missing: PyODM and WebODM cannot submit.",
        _DIFFERENT,
        "As NodeODM has them; `/openapi.json` beside them.",
    ),
    Row(
        "10 2",
        "`/task/new` takes JSON only, with required and no unknown fields.",
        _DIFFERENT,
        "Multipart, form or JSON; unknown fields are no matter.",
    ),
    Row("10 3", "Errors are 4xx and 5xx.", _DIFFERENT, "200 with `error`."),
    Row("10 4", "Cancel, remove, restart take JSON only and answer 204.", _DIFFERENT, "Form or JSON; an object."),
    Row("10 5", "Restart makes a new uuid that nobody is told.", _DIFFERENT, "The uuid stays."),
    Row("10 6", "Cancel twice fails; remove never says that a task is unknown.", _DIFFERENT, "As NodeODM."),
    Row("10 7", "`dateCreated` in seconds.", _DIFFERENT, "Milliseconds."),
    Row("10 8", "`/output` is one text.", _DIFFERENT, "A list of lines."),
    Row("10 9", "`with_output` of 0, negative, or past the end gives nothing.", _DIFFERENT, "As `slice` does."),
    Row("10 10", "`options` is null, or texts.", _DIFFERENT, "`[]`, or typed values."),
    Row("10 11", "`processingTime` is 0 before the start.", _DIFFERENT, "-1."),
    Row("10 12", "`progress` is 0, 50 or 100.", _DIFFERENT, "Moves with the engine's stages."),
    Row("10 13", "A new task begins at 10.", _DIFFERENT, "At 20."),
    Row("10 14", "`/info` lacks fields, and its versions are none that clients can read.", _DIFFERENT, "As NodeODM."),
    Row("10 15", "Five options, with a domain that ClusterODM refuses.", _DIFFERENT, "The engine's own."),
    Row(
        "10 16",
        "Options are not checked, and many values are refused for their characters.",
        _DIFFERENT,
        "Checked as NodeODM does; any text is passed on without a shell.",
    ),
    Row("10 17", "`set-uuid` is ignored; ids are names of workflows.", _DIFFERENT, "Taken; ids are UUIDs."),
    Row("10 18", "`token` is never checked.", _DIFFERENT, "Checked."),
    Row(
        "10 19",
        "Downloads lead to S3 by a link for an hour; single products and short names for them.",
        _SAME,
        "Kept: a link, made anew for each request; errors in NodeODM's way; the archive always ready beforehand.",
    ),
    Row(
        "10 20",
        "The archive holds everything; `outputs` and `skipPostProcessing` are ignored.",
        _DIFFERENT,
        "NodeODM's members, the console among them; both are heeded.",
    ),
    Row(
        "10 21",
        "Webhooks say `{uuid, statusCode}`, in three tries.",
        _DIFFERENT,
        "NodeODM's body, and `statusCode` in it for those who read that.",
    ),
    Row("10 22", "Names with a space are refused.", _DIFFERENT, "Any text."),
    Row("10 23", "No CORS, and paths to the letter.", _DIFFERENT, "As NodeODM."),
)
CATALOGUE = (*_RULES, *_READING, *_WRITING, *_TASKS, *_OPTIONS, *_RUNNING, *_CLIENTS, *_SCALEODM)
