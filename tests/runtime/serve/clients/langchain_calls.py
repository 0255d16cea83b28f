"""What LangChain's examples do with ChatOpenAI and OpenAI; the address is the first argument."""

import asyncio
import sys

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI

WANTED = {"base_url": f"{sys.argv[1]}/v1", "api_key": "none", "model": "base", "max_tokens": 4}
ASK = "the capital of France"

chat = ChatOpenAI(temperature=0, max_retries=0, **WANTED)
said = chat.invoke(ASK)
assert said.usage_metadata["output_tokens"] <= 4
assert "".join(str(part.content) for part in chat.stream(ASK)) == said.content
turns = [SystemMessage("short"), HumanMessage(ASK), said, HumanMessage("a")]
assert isinstance(chat.invoke(turns), AIMessage)
assert [m.content for m in chat.batch([ASK, ASK])] == [said.content] * 2
assert asyncio.run(chat.ainvoke(ASK)).content == said.content
chain = ChatPromptTemplate.from_messages([("user", "{asked}")]) | chat | StrOutputParser()
assert chain.invoke({"asked": ASK}) == said.content
told = chat.bind(logprobs=True, top_logprobs=2).invoke(ASK).response_metadata["logprobs"]
assert len(told["content"][0]["top_logprobs"]) == 2
parts = [HumanMessage([{"type": "text", "text": ASK}])]
assert chat.invoke(parts).content == said.content
assert chat.bind(stop=["\n"]).invoke(ASK).content == said.content.partition("\n")[0]

llm = OpenAI(temperature=0, **WANTED)
whole = llm.invoke(ASK)
assert "".join(llm.stream(ASK)) == whole
assert llm.generate([ASK, "a"]).generations[0][0].text == whole
print("done")
