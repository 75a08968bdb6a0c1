package ddl

import (
	"crypto/md5" //nolint:gosec // compared with what the database computes; guards nothing
	"encoding/hex"
)

// The event triggers. Dropped objects are told to the second one only.
const (
	CommandTrigger = "freshet_ddl"
	DropTrigger    = "freshet_drop"
)

// body is the function that both triggers call. Whatever happens in it, the user's statement goes on: what it does not say
// is found by looking, some seconds later. It runs with the rights of its owner, since whoever alters a table need not be
// allowed to write messages.
const body = `
DECLARE
  named json;
  total bigint;
BEGIN
  IF tg_tag IN ('GRANT', 'REVOKE', 'COMMENT', 'SECURITY LABEL', 'ALTER DEFAULT PRIVILEGES', 'REINDEX') THEN
    RETURN;
  END IF;
  IF tg_event = 'sql_drop' THEN
    SELECT count(*), json_agg(json_build_object('class', o.classid::regclass::text, 'oid', o.objid::bigint, 'type', o.object_type, 'name', o.object_identity))
           FILTER (WHERE o.place <= 100)
      INTO total, named
      FROM (SELECT d.*, row_number() OVER () AS place FROM pg_event_trigger_dropped_objects() d
             WHERE NOT d.is_temporary AND (d.original OR d.normal)
               AND EXISTS (SELECT FROM pg_event_trigger_dropped_objects() r WHERE r.original AND NOT r.is_temporary)) o;
  ELSE
    SELECT count(*), json_agg(json_build_object('class', coalesce(o.classid::regclass::text, ''), 'oid', coalesce(o.objid::bigint, 0), 'type', o.object_type,
             'name', coalesce(o.object_identity, ''), 'above', CASE WHEN o.classid = 'pg_class'::regclass THEN
               (SELECT json_agg(a.relid::oid::bigint) FROM pg_partition_ancestors(o.objid) a WHERE a.relid <> o.objid) END))
           FILTER (WHERE o.place <= 100)
      INTO total, named
      FROM (SELECT c.classid, c.objid, c.object_type, c.object_identity, row_number() OVER () AS place
              FROM pg_event_trigger_ddl_commands() c WHERE c.schema_name IS DISTINCT FROM 'pg_temp') o;
  END IF;
  IF total > 0 THEN
    PERFORM pg_logical_emit_message(true, '` + Prefix + `', json_build_object('tag', tg_tag, 'objects', named, 'more', total > 100)::text);
  END IF;
EXCEPTION WHEN OTHERS THEN
  RAISE LOG 'freshet says nothing of this %: %', tg_tag, sqlerrm;
END `

// Digest is what State.Function is compared with.
func Digest() string {
	sum := md5.Sum([]byte(body)) //nolint:gosec // see above
	return hex.EncodeToString(sum[:])
}

// State is what the database has of the triggers.
type State struct {
	Schema   bool   // the schema freshet is there
	Function string // the MD5 digest of the function's text; empty: there is none
	Ours     bool   // the function is a superuser's, or that of the triggers' owner: nobody else can have it do something else
	Command  bool   // the triggers are there, call the function, and fire always
	Drop     bool
	Made     []string // those that are there, however they are
	Role     string   // that asks
	May      bool     // it may make event triggers
}

// Fields are where the columns of StateSQL go.
func (s *State) Fields() []any {
	return []any{&s.Schema, &s.Function, &s.Ours, &s.Command, &s.Drop, &s.Made, &s.Role, &s.May}
}

// StateSQL asks for the State, a column for each of its fields.
const StateSQL = `
WITH made AS (
    SELECT p.oid, p.proowner, md5(p.prosrc) AS digest, p.prosecdef AND p.proconfig = '{"search_path=pg_catalog, pg_temp"}' AS safe
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'freshet' AND p.proname = 'ddl' AND p.pronargs = 0)
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'freshet'), coalesce((SELECT digest FROM made), ''),
       coalesce((SELECT m.safe AND (r.rolsuper OR EXISTS (SELECT FROM pg_event_trigger t WHERE t.evtfoid = m.oid AND t.evtowner = m.proowner))
                   FROM made m JOIN pg_roles r ON r.oid = m.proowner), false),
       EXISTS (SELECT FROM pg_event_trigger t JOIN made m ON m.oid = t.evtfoid
          WHERE t.evtname = '` + CommandTrigger + `' AND t.evtevent = 'ddl_command_end' AND t.evtenabled = 'A' AND t.evttags IS NULL),
       EXISTS (SELECT FROM pg_event_trigger t JOIN made m ON m.oid = t.evtfoid
          WHERE t.evtname = '` + DropTrigger + `' AND t.evtevent = 'sql_drop' AND t.evtenabled = 'A' AND t.evttags IS NULL),
       ARRAY(SELECT t.evtname::text FROM pg_event_trigger t WHERE t.evtname IN ('` + CommandTrigger + `', '` + DropTrigger + `') ORDER BY 1),
       current_user::text, (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)`

// Installed reports that nothing is lacking.
func (s *State) Installed() bool { return s.Function == Digest() && s.Ours && s.Command && s.Drop }

// Install are the statements that make the triggers, and anew what is there and is not as it must be. They are for a superuser:
// whoever owns the function decides what runs in everybody's DDL.
func (s *State) Install() []string {
	if s.Installed() {
		return nil
	}
	statements := s.Remove()
	if !s.Schema {
		statements = append(statements, "CREATE SCHEMA freshet")
	}
	statements = append(statements, "CREATE FUNCTION freshet.ddl() RETURNS event_trigger LANGUAGE plpgsql\n"+
		"SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $freshet$"+body+"$freshet$")
	return append(statements,
		"CREATE EVENT TRIGGER "+CommandTrigger+" ON ddl_command_end EXECUTE FUNCTION freshet.ddl()",
		"CREATE EVENT TRIGGER "+DropTrigger+" ON sql_drop EXECUTE FUNCTION freshet.ddl()",
		"ALTER EVENT TRIGGER "+CommandTrigger+" ENABLE ALWAYS", "ALTER EVENT TRIGGER "+DropTrigger+" ENABLE ALWAYS")
}

// Remove are the statements that remove whatever there is.
func (s *State) Remove() (statements []string) {
	for _, name := range s.Made {
		statements = append(statements, "DROP EVENT TRIGGER "+name)
	}
	if s.Function != "" {
		statements = append(statements, "DROP FUNCTION freshet.ddl()")
	}
	return statements
}
