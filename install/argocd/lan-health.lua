-- The health of a LAN, for Argo CD: from its conditions, as kubectl shows them.
local hs = { status = "Progressing", message = "no node has looked at it yet" }
local status = obj.status or {}
local generation = obj.metadata.generation

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local function is(type, value)
  return conditions[type] ~= nil and conditions[type].status == value
end

local function say(health, condition)
  hs.status = health
  hs.message = condition.reason
  if condition.message ~= nil and condition.message ~= "" then
    hs.message = condition.reason .. ": " .. condition.message
  end
  return hs
end

if is("Deleting", "True") then
  return say("Progressing", conditions.Deleting)
end
-- What is said of an older specification says nothing of this one.
local spoken_of = status.observedGeneration
if conditions.Ready ~= nil and conditions.Ready.observedGeneration ~= nil then
  spoken_of = conditions.Ready.observedGeneration
end
if spoken_of ~= nil and generation ~= nil and spoken_of < generation then
  hs.message = "the nodes have not looked at the newest specification yet"
  return hs
end
for _, type in ipairs({ "Accepted", "Ready", "NetworkAttachments" }) do
  if is(type, "False") then
    return say("Degraded", conditions[type])
  end
end
if is("Accepted", "True") and is("Ready", "True") then
  hs.status = "Healthy"
  hs.message = "ready on " .. (status.nodes or "all") .. " nodes"
end
return hs
